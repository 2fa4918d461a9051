"""Slabs: whatever the core says fits has places, and what no device can follow is refused."""

from __future__ import annotations

import random
from typing import Any, cast

import numpy as np
import pytest
import torch
from harness import make_engine
from hypothesis import given
from hypothesis import strategies as st
from placed_runs import BLOCK_BYTES, PatternLayout, pattern_slabs
from property.arms import ARMS
from property.workloads import SETTINGS

from executor.kv.arena import WORK_SLABS, Arena, HostArena, arena_size, blocks_within
from executor.kv.host import HostPlaces
from executor.kv.layout import SCALE_BYTES, KVLayout
from executor.kv.manager import BlockManager
from executor.kv.placer import Held, Placer
from executor.kv.slabs import OutOfSlabsError, SlabAllocator
from executor.kv.tables import BlockTable, CopyJob, MoveJob, RequantiseJob
from superinfer.errors import ConfigError
from superinfer.memory.blocks.slabs import Slabs

LAYOUT = cast("KVLayout", PatternLayout())


class Counted:
    """Blocks in places, one table for each, taken and demoted as the core's counts allow."""

    def __init__(self, blocks: int, slabs: Slabs, seed: int) -> None:
        self.blocks, self.slabs, self.random = blocks, slabs, random.Random(seed)
        size = arena_size(LAYOUT, blocks, slabs)
        self.placer = Placer(
            SlabAllocator(size.slabs, size.slab_bytes, size.block_bytes, size.per_slab)
        )
        self.names = 0

    def act(self) -> None:
        held = self.placer.held
        names = self.random.sample(sorted(cast("Any", held)), k=min(len(held), 5))
        kind = self.random.choice(["take", "take", "demote", "demote", "free"])
        if kind == "take":
            for _ in range(self.random.randint(1, 8)):
                self.take()
        elif kind == "free":
            for name in names:
                self.placer.drop(name)
        else:
            for name in names:
                self.demote(held[name])

    def take(self) -> None:
        eight, four = self.live(8), self.live(4)
        if sum(self.placer.places.live.values()) < self.blocks + self.slabs.saved(eight, four):
            held = self.placer.held[cast("Any", self.names)] = Held(BlockTable())
            self.names += 1
            self.placer.extend(held, 1)

    def demote(self, held: Held) -> None:
        bits = int(held.table.bits[0])
        lower = [fewer for fewer in (8, 4) if fewer < bits]
        if lower:
            self.placer.demote(held, np.array([0]), bits, self.random.choice(lower))

    def live(self, bits: int) -> int:
        return self.placer.places.live[bits]


@SETTINGS
@given(slab=st.integers(1, 6), blocks=st.integers(1, 60), seed=st.integers(0, 1 << 20))
def test_whatever_the_core_counts_has_a_place(slab: int, blocks: int, seed: int) -> None:
    counted = Counted(blocks, pattern_slabs(slab), seed)
    for _ in range(150):
        counted.act()
        places, tables = counted.placer.places, counted.placer.held.values()
        owned = sorted(int(held.table.offsets[0]) for held in tables)
        assert owned == places.live_offsets().tolist()


def slabs_of(placer: Placer, bits: int) -> int:
    """Slabs that a precision has."""
    places = placer.places
    return (places.free_places(bits) + places.live[bits]) // places.per_slab[bits]


def test_thin_slabs_are_emptied_for_other_precisions() -> None:
    """Eight slabs of three blocks, every third block left: they make room without being freed."""
    counted = Counted(15, pattern_slabs(3), 0)
    placer = counted.placer
    for _ in range(15):
        counted.take()
    for name in [n for n in list(placer.held) if cast("int", n) % 3]:
        placer.drop(name)
    spare = placer.places.room(8) // placer.places.per_slab[8]
    assert (slabs_of(placer, 16), spare) == (5, WORK_SLABS)
    taken = placer.take(8, (spare + 1) * counted.slabs.blocks_8)
    (move,) = placer.orders
    assert isinstance(move, MoveJob) and move.bits == 16 and len(move.sources) == 1
    assert slabs_of(placer, 16) == 4
    assert len(taken) == counted.placer.places.live[8]


def half_full(slabs: int) -> Placer:
    """Slabs of four 16-bit blocks of 16 bytes: the last two are empty, the others hold two each."""
    placer = Placer(SlabAllocator(slabs, 64, {16: 16, 8: 8, 4: 4}, {16: 4, 8: 8, 4: 16}))
    taken = placer.take(16, 4 * (slabs - 2))
    placer.places.give(taken.reshape(-1, 2)[1::2].reshape(-1))
    return placer


def test_compaction_leaves_alone_what_copies_are_reading_if_it_can() -> None:
    """Of two slabs with as many bytes the first would be emptied."""
    busy = CopyJob(None, "d2h", np.array([16]), np.full(1, 16, np.int8), np.array([0]))
    other = CopyJob(None, "h2d", np.array([64]), np.full(1, 16, np.int8), np.array([0]))
    for flights, sources in (([], [0, 16]), ([busy], [64, 80]), ([busy, other], [0, 16])):
        placer = half_full(4)
        placer.flights = flights
        placer.compact(8)
        (move,) = placer.orders
        assert isinstance(move, MoveJob) and move.sources.tolist() == sources
        assert move.after == ([busy] if other in flights else [])


def test_compaction_tells_tables_and_dropped_nodes_the_new_places() -> None:
    """Only those in the slab that is emptied: it begins where the one before ends."""
    placer = half_full(5)
    placer.flights = [
        CopyJob(None, "d2h", np.array([place]), np.full(1, 16, np.int8), np.array([0]))
        for place in (0, 128)
    ]
    dropped, others = np.array([64, 80]), np.array([0, 16, 128, 144])
    placer.trimmed = [dropped, others]
    held = placer.held[cast("Any", 0)] = Held(BlockTable())
    held.table.append(np.array([128, 64, 16]), 16)
    placer.compact(8)
    (move,) = placer.orders
    assert isinstance(move, MoveJob) and move.sources.tolist() == [64, 80]
    assert dropped.tolist() == move.targets.tolist() == [32, 48]
    assert others.tolist() == [0, 16, 128, 144]
    assert held.table.offsets.tolist() == [128, 32, 16]


def test_blocks_lose_bits_in_as_many_parts_as_there_is_room_for() -> None:
    """Two slabs hold six 16-bit blocks; the third holds six of 8 bits and has room for two. When
    two have gone there, the others fit one slab, and the other one takes what they become.
    """
    placer = Placer(SlabAllocator(3, 64, {16: 16, 8: 8, 4: 4}, {16: 4, 8: 8, 4: 16}))
    held = placer.held[cast("Any", 0)] = Held(BlockTable())
    placer.extend(held, 6)
    other = placer.held[cast("Any", 1)] = Held(BlockTable())
    other.table.append(placer.take(8, 6), 8)
    placer.demote(held, np.arange(6), 16, 8)
    parts = [order for order in placer.orders if isinstance(order, RequantiseJob)]
    assert [len(part.targets) for part in parts] == [2, 4]
    assert held.table.bits.tolist() == [8] * 6
    owned = sorted([*held.table.offsets, *other.table.offsets])
    assert owned == placer.places.live_offsets().tolist() and len(set(owned)) == 12


def test_a_place_is_given_back_once() -> None:
    places = SlabAllocator(2, 64, {16: 32}, {16: 2})
    offsets = places.take(16, 3)
    assert offsets.tolist() == [0, 32, 64]
    places.give(offsets[:1])
    with pytest.raises(OutOfSlabsError, match="twice"):
        places.give(offsets[:1])
    with pytest.raises(OutOfSlabsError, match="room for 2"):
        places.take(16, 3)
    assert places.take(16, 2).tolist() == [0, 96]


def test_room_for_smaller_blocks_costs_three_slabs() -> None:
    slabs = pattern_slabs(4)
    assert arena_size(LAYOUT, 9, slabs).slabs == 3 + WORK_SLABS
    assert arena_size(LAYOUT, 9, slabs, smaller=False).nbytes == 9 * BLOCK_BYTES[16]
    layout = KVLayout(2, 2, 64, 32, torch.float16)
    blocks, found = blocks_within(40 << 20, layout, slab_bytes=1 << 20)
    assert arena_size(layout, blocks, found).nbytes <= 40 << 20
    assert arena_size(layout, blocks + found.blocks_16, found).nbytes > 39 << 20


def test_no_room_on_the_host_is_an_error() -> None:
    with pytest.raises(OutOfSlabsError, match="no host arena"):
        HostPlaces(None).take(np.full(1, 16, np.int8))


def test_smaller_blocks_lie_closer_on_the_host() -> None:
    """A slab of 2 x 64 bytes holds two blocks of 16 bits, three of 8 and six of 4. There is memory
    for two; the third, for more blocks of 8 bits, makes the arena larger by a chunk of two slabs.
    """
    slabs = pattern_slabs(2)
    arena = HostArena(BLOCK_BYTES[16], 4, pinned=False, slab_blocks=2)
    places = HostPlaces(arena, arena_size(LAYOUT, 4, slabs))
    bits = np.array([16, 8, 8, 16, 8], np.int8)
    found = places.take(bits)
    assert found.tolist() == [0, 128, 128 + 36, 64, 128 + 72]
    assert (places.taken, places.taken_bytes, arena.blocks) == (5, 2 * 64 + 3 * 36, 4)
    more = places.take(np.array([8], np.int8))
    assert (more.tolist(), arena.blocks) == ([256], 8)
    places.give(found[bits == 16])
    assert places.take(np.full(7, 4, np.int8)).tolist() == [*range(0, 120, 20), 384]
    with pytest.raises(ValueError, match="slabs of 2"):
        HostPlaces(HostArena(BLOCK_BYTES[16], 3, pinned=False), arena_size(LAYOUT, 4, slabs))


def test_the_host_arena_grows_again_when_it_is_full_again() -> None:
    """Chunks of four blocks, of which two make a slab."""
    arena = HostArena(BLOCK_BYTES[16], 4, pinned=False, slab_blocks=2)
    places = HostPlaces(arena, arena_size(LAYOUT, 4, pattern_slabs(2)))
    grown = [(len(places.take(np.full(5, 16, np.int8))), arena.blocks) for _ in range(3)]
    assert grown == [(5, 8), (5, 12), (5, 16)]
    assert places.taken == 15


def test_bytes_of_a_block_by_precision() -> None:
    """K and V of 3 layers, 2 heads, 8 tokens and 16 channels. With 8 bits both have a scale per
    token; with 4 bits a scale and a minimum, K per channel and V per token.
    """
    layout = KVLayout(layers=3, kv_heads=2, head_dim=16, block_tokens=8, dtype=torch.float16)
    assert layout.unit_bytes[16] == 2 * 8 * 16 * 2
    assert layout.unit_bytes[8] == 2 * 8 * 16 + 2 * 8 * SCALE_BYTES
    assert layout.unit_bytes[4] == 8 * 16 + 2 * (16 + 8) * SCALE_BYTES
    for bits in (16, 8, 4):
        assert layout.layer_bytes[bits] == 2 * layout.unit_bytes[bits]
        assert layout.block_bytes[bits] == 3 * 2 * layout.unit_bytes[bits]
        offset = layout.unit_offset(bits, 2, 1)
        assert offset == (2 * 2 + 1) * layout.unit_bytes[bits]
    assert layout.unit_offset(16, 0) == 0


@pytest.mark.parametrize(
    ("arm", "match"),
    [
        ("vllm-v1-offload", "memory.offload: for superinfer-sim alone"),
        ("vllm-v1-priority", "scheduler.policy: expected fcfs .* got priority"),
    ],
)
def test_what_no_device_can_follow_is_refused(arm: str, match: str) -> None:
    scheduler, memory = ARMS[arm]()
    more = {"prefix_caching": True, "block_bytes": 64, "host_blocks": 8}
    engine = make_engine(scheduler, 8, memory=memory, **more)
    arena = Arena(LAYOUT, arena_size(LAYOUT, 8, Slabs(), False), torch.device("cpu"))
    with pytest.raises(ConfigError, match=match):
        BlockManager(engine, arena)
