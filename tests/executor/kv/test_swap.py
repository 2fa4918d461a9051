"""Copies on a real device: both ways at once, and nothing is written before it was read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from placed_runs import BLOCK_BYTES, FakeMark, FakeStreams, PatternLayout, PatternOps, pattern_slabs

from executor.kv.arena import Arena, HostArena, arena_size
from executor.kv.layout import KVLayout
from executor.kv.streams import InlineStreams, streams_for
from executor.kv.swap import Mover, _Spans, runs
from executor.kv.tables import CopyJob, MoveJob, Moves, Order, WaitJob
from superinfer.plan import Direction, Transfer

LAYOUT = cast("KVLayout", PatternLayout())
SIZE = BLOCK_BYTES[16]


def copy(direction: Direction, device: list[int], host: list[int], timing: str) -> CopyJob:
    transfer = Transfer(None, direction, len(device), 0, 1, cast("Any", timing))
    places = np.array(device, np.int64) * SIZE, np.array(host, np.int64) * SIZE
    return CopyJob(transfer, direction, places[0], np.full(len(device), 16, np.int8), places[1])


@pytest.mark.parametrize("name", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_blocks_trade_places_with_the_host(name: str) -> None:
    """Four go out and are overwritten; they come back elsewhere while four others go out."""
    device = torch.device(name)
    arena = Arena(LAYOUT, arena_size(LAYOUT, 16, pattern_slabs(4)), device)
    host = HostArena(SIZE, 8, pinned=name == "cuda")
    mover = Mover(arena, host, cast("Any", PatternOps()), streams_for(device))
    before = torch.randint(0, 255, (16, SIZE), dtype=torch.uint8)
    blocks = arena.tensor[: 16 * SIZE].view(16, SIZE)
    blocks.copy_(before)
    mover.start(Moves([copy("d2h", [0, 1, 2, 3], [4, 5, 6, 7], "before_step")]))
    blocks[:4] = 0
    coming = copy("h2d", [12, 9, 10, 2], [4, 5, 6, 7], "before_step")
    going = copy("d2h", [8, 11, 13, 14], [0, 1, 2, 3], "background")
    mover.start(Moves([coming, going]))
    after = blocks.clone()
    landed = []
    while not landed:
        landed = mover.poll()
    assert landed == [going.transfer] and not mover.busy
    assert torch.equal(after[[12, 9, 10, 2]].cpu(), before[:4])
    assert torch.equal(host.view(0, 4 * SIZE).view(4, SIZE), before[[8, 11, 13, 14]])


def test_blocks_that_lie_together_move_together() -> None:
    host = HostArena(SIZE, 8, pinned=False)
    job = copy("d2h", [3, 4, 5, 7, 8], [0, 1, 3, 4, 5], "before_step")
    assert list(runs(job, BLOCK_BYTES, host)) == [(0, 2, SIZE), (2, 3, SIZE), (3, 5, SIZE)]
    job.bits[4] = 8
    assert list(runs(job, BLOCK_BYTES, host))[-2:] == [(3, 4, SIZE), (4, 5, BLOCK_BYTES[8])]


def landed_before_computing(order: str, seed: int) -> bool:
    """True if a background copy to the host is over once the computing lane is through; the lanes
    go on in a random order.
    """
    streams = FakeStreams(seed)
    arena = Arena(LAYOUT, arena_size(LAYOUT, 16, pattern_slabs(4)), torch.device("cpu"))
    mover = Mover(arena, HostArena(SIZE, 8, pinned=False), cast("Any", PatternOps()), streams)
    going = copy("d2h", [0, 2, 4, 6], [0, 2, 4, 6], "background")
    mover.start(Moves([going]))
    after = [] if order.endswith("another") else [going]
    sources, targets = np.array([0, 2]) * SIZE, np.array([8, 9]) * SIZE
    orders: dict[str, Order] = {
        "wait": WaitJob(after),
        "move": MoveJob(16, sources, targets, after),
        "move another": MoveJob(16, sources + SIZE, targets, after),
    }
    mover.start(Moves([orders[order]]))
    streams.run("compute", lambda: None)
    streams.finish("compute")
    return mover.poll() == [going.transfer]


@pytest.mark.parametrize("order", ["wait", "move"])
def test_the_computing_lane_waits_for_the_copies_that_an_order_names(order: str) -> None:
    assert all(landed_before_computing(order, seed) for seed in range(20))


def test_nothing_waits_for_a_background_copy_that_no_order_names() -> None:
    assert not all(landed_before_computing("move another", seed) for seed in range(20))


@pytest.mark.parametrize("seed", range(10))
def test_a_place_is_written_anew_when_the_copy_before_has_read_it(seed: int) -> None:
    """Two blocks go out and two others get their places, by the same plan."""
    streams = FakeStreams(seed)
    arena = Arena(LAYOUT, arena_size(LAYOUT, 16, pattern_slabs(4)), torch.device("cpu"))
    host = HostArena(SIZE, 8, pinned=False)
    mover = Mover(arena, host, cast("Any", PatternOps()), streams)
    blocks = arena.tensor[: 16 * SIZE].view(16, SIZE)
    blocks.copy_(torch.arange(16, dtype=torch.uint8)[:, None].expand(16, SIZE))
    going = copy("d2h", [0, 2], [0, 1], "before_step")
    others = MoveJob(16, np.array([8, 9]) * SIZE, np.array([0, 2]) * SIZE)
    mover.start(Moves([going, others]))
    streams.finish("compute")
    assert blocks[[0, 2], 0].tolist() == [8, 9]
    assert host.view(0, 2 * SIZE).view(2, SIZE)[:, 0].tolist() == [0, 2]


def landed_beside(coming: list[int], host: list[int], smaller: bool) -> list[Transfer | None]:
    """What has landed while the lane to the host stands still, with blocks 0 and 2 on it."""
    streams = FakeStreams(0)
    arena = Arena(LAYOUT, arena_size(LAYOUT, 16, pattern_slabs(4), smaller), torch.device("cpu"))
    mover = Mover(arena, HostArena(SIZE, 8, pinned=False), cast("Any", PatternOps()), streams)
    streams.wait("d2h", FakeMark())  # which nobody ever reaches
    mover.start(Moves([copy("d2h", [0, 2], [0, 2], "background")]))
    mover.start(Moves([copy("h2d", coming, host, "background")]))
    streams.go_on(1000)
    return mover.poll()


@pytest.mark.parametrize("smaller", [False, True])
def test_copies_of_different_blocks_go_both_ways_at_once(smaller: bool) -> None:
    """Whether blocks can lose bits, and so have slabs of their own, or not."""
    assert len(landed_beside([1, 3], [1, 3], smaller)) == 1
    assert not landed_beside([1, 2], [1, 3], smaller)
    assert not landed_beside([1, 3], [1, 2], smaller)


@pytest.mark.parametrize("both_ways", [False, True])
def test_copies_that_a_step_waits_for_go_one_way_at_a_time_unless_asked(both_ways: bool) -> None:
    """The one back begins when the one to the host is over; one in the background at once."""
    streams = FakeStreams(0)
    arena = Arena(LAYOUT, arena_size(LAYOUT, 16, pattern_slabs(4)), torch.device("cpu"))
    host = HostArena(SIZE, 8, pinned=False)
    host.view(0, 8 * SIZE).zero_()
    mover = Mover(arena, host, cast("Any", PatternOps()), streams)
    held = FakeMark()
    streams.wait("d2h", held)
    blocks = arena.tensor[: 16 * SIZE].view(16, SIZE)
    blocks.fill_(1)
    going = [copy("d2h", [place], [place], "before_step") for place in (0, 2)]
    coming, beside = copy("h2d", [4], [4], "before_step"), copy("h2d", [6], [6], "background")
    first = Moves([beside, *going, coming])
    mover.start(first if both_ways else first.one_way_at_a_time())
    streams.go_on(1000)
    arrived = [not blocks[place].any() for place in (6, 4)]
    assert arrived == [True, both_ways] and len(mover.poll()) == 1
    held.reached = True
    streams.finish("compute")
    assert not blocks[4].any() and not blocks[6].any()


@pytest.mark.parametrize("seed", range(5))
def test_memory_that_two_copies_share(seed: int) -> None:
    """Byte by byte, of blocks of several sizes."""
    random = np.random.default_rng(seed)
    for _ in range(200):
        sides = []
        for _ in range(2):
            sizes = random.integers(1, 5, random.integers(0, 6))
            places = (np.cumsum(sizes + random.integers(0, 4, len(sizes))) - sizes).astype(np.int64)
            order = random.permutation(len(sizes))
            spans = _Spans.of(places[order], sizes[order])
            held = {
                b for at, n in zip(places, sizes, strict=True) for b in range(int(at), int(at + n))
            }
            sides.append((spans, held))
        (ours, mine), (others, theirs) = sides
        assert ours.meet(others) == bool(mine & theirs)


def test_the_host_does_not_wait_for_the_places_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """They go to a GPU out of pinned memory, beside the step that runs there."""
    sent: list[tuple[bool, bool]] = []
    pinned: list[torch.Tensor] = []

    def pin(places: torch.Tensor) -> torch.Tensor:
        pinned.append(places.clone())
        return pinned[-1]

    def to(places: torch.Tensor, device: torch.device, non_blocking: bool = False) -> torch.Tensor:
        sent.append((non_blocking, places is pinned[-1]))
        return places

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    arena: Any = SimpleNamespace(
        tensor=SimpleNamespace(device=torch.device("cuda")),
        size=SimpleNamespace(block_bytes=BLOCK_BYTES),
    )
    copied: list[Any] = []
    ops: Any = SimpleNamespace(copy_blocks=lambda *given: copied.append(given))
    mover = Mover(arena, None, ops, InlineStreams())
    mover.start(Moves([MoveJob(16, np.array([0, 2]) * SIZE, np.array([8, 9]) * SIZE)]))
    assert sent == [(True, True)] * 2
    _, sources, targets, _ = copied[0]
    assert sources.tolist() == [0, 2 * SIZE] and targets.tolist() == [8 * SIZE, 9 * SIZE]
