"""Mixture of experts in Triton's interpreter and in torch, against a loop in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernelkit.dense import Experts, close, mixture, mixture_by_hand, poisoned
from torch import Tensor

from executor.kernels import moe as triton_moe
from executor.kernels.reference import dense as reference

implementations = pytest.mark.parametrize("moe", [triton_moe.moe, reference.moe])
Moe = Callable[..., Tensor]

CASES = {
    "one row": mixture(1, 2, 8, 64, 48),
    "odd sizes": mixture(7, 2, 4, 70, 50),
    "one of one": mixture(5, 1, 1, 32, 32),
    "all of three": mixture(6, 3, 3, 32, 40),
    "one takes all": mixture(40, 1, 4, 32, 32, among=[2]),
    "the last takes all": mixture(3, 1, 5, 32, 32, among=[4]),
    "most are empty": mixture(20, 2, 16, 32, 32, among=[3, 9, 15]),
    "tiles of 32 rows": mixture(40, 2, 3, 40, 36),
    "tiles of 128 rows": mixture(150, 1, 2, 32, 24),
    "half precision": mixture(9, 2, 4, 96, 64, torch.float16),
    "half precision, tiles of 64 rows": mixture(100, 1, 2, 64, 32, torch.float16),
    "int8, one row": mixture(1, 2, 8, 64, 48, int8=True),
    "int8, odd sizes": mixture(7, 2, 4, 200, 50, int8=True),
    "int8, tiles of 32 rows": mixture(40, 2, 3, 40, 36, torch.float16, int8=True),
    "int8, tiles of 64 rows": mixture(100, 1, 2, 64, 72, torch.float16, int8=True),
    "int8, tiles of 128 rows": mixture(150, 1, 2, 32, 24, torch.float16, int8=True),
    "int8, most are empty": mixture(20, 2, 16, 32, 32, among=[3, 9, 15], int8=True),
}


@implementations
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_mixture(moe: Moe, case: Experts) -> None:
    with poisoned():
        found = moe(*case)
    close(found, mixture_by_hand(case))


@implementations
@pytest.mark.parametrize("int8", [False, True])
def test_no_rows(moe: Moe, int8: bool) -> None:
    assert moe(*mixture(0, 2, 4, 32, 32, int8=int8)).shape == (0, 32)


@implementations
@pytest.mark.parametrize("int8", [False, True])
def test_a_row_does_not_depend_on_the_others(moe: Moe, int8: bool) -> None:
    case = mixture(12, 2, 4, 32, 32, int8=int8)
    torch.testing.assert_close(moe(*case.row(3)), moe(*case)[3:4])


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 40),
    experts=st.integers(1, 9),
    seed=st.integers(0, 99),
    int8=st.booleans(),
    data=st.data(),
)
def test_mixture_of_any_size(
    rows: int, experts: int, seed: int, int8: bool, data: st.DataObject
) -> None:
    per_row = data.draw(st.integers(1, experts))
    case = mixture(rows, per_row, experts, 33, 17, seed=seed, int8=int8)
    with poisoned():
        close(triton_moe.moe(*case), mixture_by_hand(case))


@pytest.mark.parametrize("tile_rows", [16, 64])
@pytest.mark.parametrize("sort_turns", [triton_moe.SORT_TURNS, 0], ids=["kernel", "torch"])
@pytest.mark.parametrize(
    "chosen",
    [
        torch.tensor([[0, 1]]),
        torch.tensor([[5, 0], [5, 1], [2, 5], [0, 5]]),
        torch.arange(7).repeat(9).view(-1, 1),
        torch.full((70, 1), 6),
    ],
    ids=["one row", "few", "even", "one takes all"],
)
def test_route(
    monkeypatch: pytest.MonkeyPatch, chosen: Tensor, tile_rows: int, sort_turns: int
) -> None:
    """Pairs by expert, those of one in order, cut into tiles that no two experts share."""
    monkeypatch.setattr(triton_moe, "SORT_TURNS", sort_turns)
    with poisoned():
        routing = triton_moe.route(chosen, 7, tile_rows)
    flat = chosen.view(-1).tolist()
    order = sorted(range(len(flat)), key=flat.__getitem__)
    assert routing.order.tolist() == order
    tiles = []
    for expert in sorted(set(flat)):
        first = sorted(flat).index(expert)
        end = first + flat.count(expert)
        tiles += [(expert, start, end) for start in range(first, end, tile_rows)]
    used = int(routing.used)
    assert [tuple(tile) for tile in routing.tiles[:, :used].T.tolist()] == tiles
    assert used <= routing.tiles.shape[1]


def test_many_chunks_are_sorted_by_the_kernel() -> None:
    """Ranks go on from one chunk of pairs to the next."""
    chosen = torch.randint(0, 5, (300, 2), generator=torch.Generator().manual_seed(0))
    with poisoned():
        routing = triton_moe.route(chosen, 5, 16)
    expected = chosen.view(-1).sort(stable=True).indices
    assert torch.equal(routing.order.long(), expected)


def test_room_for_tiles_is_always_enough() -> None:
    """The worst case: every chosen expert has one row more than fills its tiles."""
    chosen = torch.arange(4).repeat(17).view(-1, 1)
    routing = triton_moe.route(chosen, 4, 16)
    assert int(routing.used) == 8 == routing.tiles.shape[1]


def test_both_products_cut_rows_alike() -> None:
    """One list of tiles serves both."""
    assert triton_moe.UP_TILES.keys() == triton_moe.DOWN_TILES.keys()
    pairs = [(tiles, triton_moe.DOWN_TILES[chip]) for chip, tiles in triton_moe.UP_TILES.items()]
    for up, down in [*pairs, (triton_moe.UP_INT8, triton_moe.DOWN_INT8)]:
        assert [tile.rows for tile in up] == [tile.rows for tile in down]
