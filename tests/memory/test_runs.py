"""Runs of bits and stretches of blocks against lists with an entry for each block."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superinfer.memory.blocks.pool import HostPool
from superinfer.memory.blocks.runs import (
    Runs,
    Stretch,
    changed,
    cut,
    demoted,
    first_of,
    joined,
    length,
    merged,
    small_in,
    small_within,
    without,
)
from superinfer.memory.blocks.slabs import BlockSizes

PARTS = st.lists(st.tuples(st.sampled_from([16, 8, 4]), st.integers(0, 5)), max_size=5)
BLOCKS = st.integers(0, 30)
SETS = st.sets(st.integers(0, 20))


def bits_of(runs: Runs, blocks: int) -> list[int]:
    found = [bits for bits, count in runs for _ in range(count)]
    return (found + [16] * blocks)[:blocks]


def stretches(blocks: set[int]) -> list[Stretch]:
    starts = sorted(block for block in blocks if block - 1 not in blocks)
    stops = sorted(block + 1 for block in blocks if block + 1 not in blocks)
    return list(zip(starts, stops, strict=True))


def members(found: list[Stretch]) -> list[int]:
    return [block for start, stop in found for block in range(start, stop)]


@given(parts=PARTS)
def test_joined_runs_are_the_shortest(parts: list[tuple[int, int]]) -> None:
    runs = joined(parts)
    assert bits_of(runs, 30) == bits_of(tuple(parts), 30)
    assert all(one[0] != other[0] for one, other in pairwise(runs))
    assert not runs or runs[-1][0] < 16
    assert small_in(runs) == (bits_of(runs, 30).count(8), bits_of(runs, 30).count(4))


@given(parts=PARTS, start=BLOCKS, stop=BLOCKS)
def test_a_cut_is_what_lies_between(parts: list[tuple[int, int]], start: int, stop: int) -> None:
    runs = joined(parts)
    found = [bits for bits, count in cut(runs, start, stop) for _ in range(count)]
    assert found == bits_of(runs, stop)[start:]
    small = small_within(runs, [(start, stop)])
    assert small == (found.count(8), found.count(4))


@given(
    parts=PARTS,
    start=st.integers(0, 8),
    count=st.integers(0, 8),
    bits=st.sampled_from([(16, 8), (16, 4), (8, 4)]),
)
def test_the_first_blocks_of_a_precision_lose_bits(
    parts: list[tuple[int, int]], start: int, count: int, bits: tuple[int, int]
) -> None:
    runs, (before, after) = joined(parts), bits
    wanted, left = bits_of(runs, 60), count
    for block in range(start, 60):
        if left and wanted[block] == before:
            wanted[block], left = after, left - 1
    found = demoted(runs, start, count, before, after)
    assert bits_of(found, 60) == wanted
    lost = [n for n, (x, y) in enumerate(zip(bits_of(runs, 60), wanted, strict=True)) if x != y]
    assert members(changed(runs, found)) == lost


@given(one=SETS, other=SETS, limit=st.integers(0, 25))
def test_stretches_are_sets_in_order(one: set[int], other: set[int], limit: int) -> None:
    first, second = stretches(one), stretches(other)
    assert members(without(first, second)) == sorted(one - other)
    assert merged(without(first, second), second) == stretches(one | other)
    assert members(first_of(first, limit)) == sorted(one)[:limit]
    assert length(first) == len(one)


def test_room_on_the_host_is_bytes() -> None:
    """Ten blocks of 100 bytes; those of 8 bits have 51, those of 4 have 29. Four swapped ones, two
    of them small, take 280; room for 7 of 16 bits is left, and for 2 fewer beside copies.
    """
    host = HostPool(10, 4, BlockSizes(100, 51, 29))
    host.hold(4, (1, 1))
    assert (host.used, host.nbytes, host.free) == (4, 280, 7)
    assert host.fits(7, (0, 0)) and not host.fits(8, (0, 0))
    assert host.fits(8, (2, 0))  # 702 of 720 bytes
    assert host.occupancy == pytest.approx(0.28)
    host.mirror(2, (0, 1))
    assert (host.mirror_room, host.free, host.nbytes) == (5, 7, 280 + 129)
    host.cache(3, 8)
    host.cache(1, 16)
    assert (host.cached, host.cache_free, host.cache_room(4)) == (4, 1, 5)  # 147 bytes are left
    assert host.taken == 7  # 662 bytes
    host.release(4, (1, 1))
    host.mirror(-2, (0, -1))
    host.cache(-3, 8)
    host.cache(-1, 16)
    assert (host.nbytes, host.free, host.mirror_room, host.cache_free) == (0, 10, 10, 4)
