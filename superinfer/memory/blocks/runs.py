"""Which blocks of a cache have which bits, as runs; and stretches of blocks.

What is behind the last run has 16 bits, so the cache of a request that lost none has no runs. There
are few: blocks lose bits by the stretch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from superinfer.memory.blocks.slabs import NO_SMALL, Small

Runs = tuple[tuple[int, int], ...]
"""Bits and number of blocks, one run behind the other."""
NO_RUNS: Final[Runs] = ()
Stretch = tuple[int, int]
"""The first block and the one behind the last."""


def joined(parts: Iterable[tuple[int, int]]) -> Runs:
    """Runs of these parts, one behind the other."""
    found: list[tuple[int, int]] = []
    for bits, count in parts:
        if count <= 0:
            continue
        if found and found[-1][0] == bits:
            found[-1] = bits, found[-1][1] + count
        else:
            found.append((bits, count))
    if found and found[-1][0] == 16:
        found.pop()
    return tuple(found)


def small_in(runs: Runs) -> Small:
    """How many blocks of 8 and of 4 bits there are."""
    if not runs:
        return NO_SMALL
    eight = sum([count for bits, count in runs if bits == 8])
    return eight, sum([count for bits, count in runs if bits == 4])


def cut(runs: Runs, start: int, stop: int) -> list[tuple[int, int]]:
    """The parts of blocks `start` to `stop`, those of 16 bits behind the last run included."""
    found: list[tuple[int, int]] = []
    first = 0
    for bits, count in (*runs, (16, max(0, stop))):
        part = min(first + count, stop) - max(first, start)
        if part > 0:
            found.append((bits, part))
        first += count
    return found


def small_within(runs: Runs, stretches: Iterable[Stretch]) -> Small:
    """How many blocks of 8 and of 4 bits there are in these stretches."""
    if not runs:
        return NO_SMALL
    return small_in(tuple([part for start, stop in stretches for part in cut(runs, start, stop)]))


def demoted(runs: Runs, start: int, count: int, from_bits: int, to_bits: int) -> Runs:
    """The first `count` blocks of `from_bits`, from block `start` on, have `to_bits`."""
    found, left = cut(runs, 0, start), count
    end = sum([blocks for _, blocks in runs]) + start + count
    for bits, blocks in cut(runs, start, end):
        moved = min(blocks, left) if bits == from_bits else 0
        found += [(to_bits, moved), (bits, blocks - moved)]
        left -= moved
    return joined(found)


def changed(before: Runs, after: Runs) -> list[Stretch]:
    """Blocks that have other bits in the second than in the first."""
    end = max(sum([count for _, count in before]), sum([count for _, count in after]))
    old, new = cut(before, 0, end), cut(after, 0, end)
    found: list[Stretch] = []
    first = 0
    while old and new:
        (bits, count), (others, other) = old.pop(0), new.pop(0)
        step = min(count, other)
        if bits != others:
            found.append((first, first + step))
        if count > step:
            old.insert(0, (bits, count - step))
        if other > step:
            new.insert(0, (others, other - step))
        first += step
    return found


def length(stretches: Iterable[Stretch]) -> int:
    """Blocks in stretches that do not overlap."""
    return sum([stop - start for start, stop in stretches])


def without(stretches: Iterable[Stretch], others: Iterable[Stretch]) -> list[Stretch]:
    """What is in the first and not in the second, each in order."""
    found = list(stretches)
    for start, stop in others:
        ends = [
            part
            for first, last in found
            for part in ((first, min(last, start)), (max(first, stop), last))
        ]
        found = [(first, last) for first, last in ends if first < last]
    return found


def first_of(stretches: Iterable[Stretch], limit: int) -> list[Stretch]:
    """The first `limit` blocks of them."""
    found: list[Stretch] = []
    for start, stop in stretches:
        if limit <= 0:
            break
        found.append((start, min(stop, start + limit)))
        limit -= stop - start
    return found


def merged(stretches: Iterable[Stretch], more: Iterable[Stretch]) -> list[Stretch]:
    """Both, which do not overlap, in order."""
    found: list[Stretch] = []
    for start, stop in sorted([*stretches, *more]):
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], stop
        elif start < stop:
            found.append((start, stop))
    return found
