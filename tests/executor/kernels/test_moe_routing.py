"""Pairs of a row and an expert in Triton's interpreter, against sorting them in Python."""

from __future__ import annotations

import pytest
import torch
from kernelkit.dense import poisoned
from torch import Tensor

from executor.kernels import moe_routing


@pytest.mark.parametrize("tile_rows", [16, 64])
@pytest.mark.parametrize("sort_turns", [moe_routing.SORT_TURNS, 0], ids=["kernel", "torch"])
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
    monkeypatch.setattr(moe_routing, "SORT_TURNS", sort_turns)
    with poisoned():
        routing = moe_routing.route(chosen, 7, tile_rows)
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
        routing = moe_routing.route(chosen, 5, 16)
    expected = chosen.view(-1).sort(stable=True).indices
    assert torch.equal(routing.order.long(), expected)


def test_room_for_tiles_is_always_enough() -> None:
    """The worst case: every chosen expert has one row more than fills its tiles."""
    chosen = torch.arange(4).repeat(17).view(-1, 1)
    routing = moe_routing.route(chosen, 4, 16)
    assert int(routing.used) == 8 == routing.tiles.shape[1]
