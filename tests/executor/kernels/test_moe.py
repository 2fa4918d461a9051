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
Moe = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]

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
}


@implementations
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_mixture(moe: Moe, case: Experts) -> None:
    with poisoned():
        found = moe(*case)
    close(found, mixture_by_hand(case))


@implementations
def test_no_rows(moe: Moe) -> None:
    assert moe(*mixture(0, 2, 4, 32, 32)).shape == (0, 32)


@implementations
def test_a_row_does_not_depend_on_the_others(moe: Moe) -> None:
    case = mixture(12, 2, 4, 32, 32)
    whole = moe(*case)
    part = Experts(case.x[3:4], case.weights[3:4], case.experts[3:4], case.gate_up, case.down)
    torch.testing.assert_close(moe(*part), whole[3:4])


@settings(max_examples=6, deadline=None, derandomize=True)
@given(rows=st.integers(1, 40), experts=st.integers(1, 9), seed=st.integers(0, 99), data=st.data())
def test_mixture_of_any_size(rows: int, experts: int, seed: int, data: st.DataObject) -> None:
    case = mixture(rows, data.draw(st.integers(1, experts)), experts, 33, 17, seed=seed)
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
    for chip, tiles in triton_moe.UP_TILES.items():
        assert [tile.rows for tile in tiles] == [tile.rows for tile in triton_moe.DOWN_TILES[chip]]
