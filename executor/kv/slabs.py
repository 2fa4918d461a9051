"""Places for blocks: slabs of one precision each, taken from and given back to a common pool."""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from executor.kv.layout import PRECISIONS
from executor.kv.tables import NO_OFFSETS, Bits, Offsets


class OutOfSlabsError(RuntimeError):
    """More blocks are wanted than there is room for: the counts and the places disagree."""


def places_of(bits: Bits, take: Callable[[int, int], Offsets]) -> Offsets:
    """A place for each block of these precisions; `take` gives those of so many bits and blocks."""
    offsets = np.empty(len(bits), np.int64)
    for wanted in PRECISIONS:
        where = np.flatnonzero(bits == wanted)
        if len(where):
            offsets[where] = take(wanted, len(where))
    return offsets


class _Slab:
    """Which places of a slab are free."""

    __slots__ = ("bits", "free", "free_count")

    def __init__(self, bits: int, places: int) -> None:
        self.bits = bits
        self.free: NDArray[np.bool_] = np.ones(places, np.bool_)
        self.free_count = places

    def take(self, limit: int) -> NDArray[np.int64]:
        """The first free places, at most so many."""
        found = [self.free.argmax()] if limit == 1 else np.flatnonzero(self.free)[:limit]
        places = np.asarray(found)
        self.free[places] = False
        self.free_count -= len(places)
        return places


class SlabAllocator:
    """Hands out places, the lowest slab first, so that the highest ones come free."""

    def __init__(
        self,
        slabs: int,
        slab_bytes: int,
        block_bytes: Mapping[int, int],
        per_slab: Mapping[int, int],
    ) -> None:
        """`block_bytes` and `per_slab` (blocks in a slab) by bits; there are `slabs` slabs."""
        self.slab_bytes, self.block_bytes, self.per_slab = slab_bytes, block_bytes, per_slab
        self.live = dict.fromkeys(block_bytes, 0)
        """Blocks that have places, by bits."""
        self.slab_count = slabs
        self._spare = list(range(slabs))
        self._slabs: dict[int, _Slab] = {}
        self._open: dict[int, list[int]] = {bits: [] for bits in block_bytes}
        """Slabs with free places, lowest first."""
        self._used = dict.fromkeys(block_bytes, 0)
        """Slabs by bits."""

    def free_places(self, bits: int) -> int:
        """Places that a precision can hand out without another slab."""
        return self._used[bits] * self.per_slab[bits] - self.live[bits]

    def room(self, bits: int) -> int:
        """Places that a precision can hand out as the slabs are now."""
        return self.free_places(bits) + len(self._spare) * self.per_slab[bits]

    def take(self, bits: int, count: int) -> Offsets:
        """Places for `count` blocks. Raises OutOfSlabsError beyond `room`, and takes nothing."""
        if count > self.room(bits):
            raise OutOfSlabsError(f"{count} blocks of {bits} bits, room for {self.room(bits)}")
        parts = []
        while count:
            parts.append(self._take_some(bits, count))
            count -= len(parts[-1])
        return np.concatenate(parts) if len(parts) > 1 else parts[0] if parts else NO_OFFSETS

    def give(self, offsets: Offsets) -> None:
        """Take back places that `take` gave; an empty slab goes back to the common pool."""
        if not len(offsets):
            return
        slabs = offsets // self.slab_bytes
        if slabs[0] == slabs[-1] and (slabs == slabs[0]).all():
            self._give_in(int(slabs[0]), offsets)
            return
        for slab in np.unique(slabs):
            self._give_in(int(slab), offsets[slabs == slab])

    def add(self, slabs: int) -> None:
        """There is memory for so many slabs more, behind the others."""
        for index in range(self.slab_count, self.slab_count + slabs):
            heapq.heappush(self._spare, index)
        self.slab_count += slabs

    # -- compaction -----------------------------------------------------------------------------

    def thin_slabs(self, but_bits: int) -> list[int]:
        """Slabs whose blocks have room in others of their precision, those with the fewest bytes
        first; none of `but_bits`.
        """
        found = [
            ((len(slab.free) - slab.free_count) * self.block_bytes[slab.bits], index)
            for index, slab in self._slabs.items()
            if slab.bits != but_bits and self.free_places(slab.bits) >= self.per_slab[slab.bits]
        ]
        return [index for _, index in sorted(found)]

    def empty(self, index: int) -> tuple[int, Offsets, Offsets]:
        """Give every block of a slab another place in its precision, and the slab back to the
        common pool; returns bits, old and new places.
        """
        slab = self._slabs[index]
        bits = slab.bits
        places = np.flatnonzero(~slab.free)
        sources = index * self.slab_bytes + places * self.block_bytes[bits]
        if slab.free_count:
            self._open[bits].remove(index)
        spare, self._spare = self._spare, []  # not into another slab
        try:
            del self._slabs[index]
            self._used[bits] -= 1
            self.live[bits] -= len(places)
            targets = self.take(bits, len(places))
        finally:
            self._spare = spare
        heapq.heappush(self._spare, index)
        return bits, sources, targets

    def live_offsets(self) -> Offsets:
        """Every place that is taken, in order (for checks)."""
        parts = [
            index * self.slab_bytes + np.flatnonzero(~slab.free) * self.block_bytes[slab.bits]
            for index, slab in sorted(self._slabs.items())
        ]
        return np.concatenate(parts) if parts else NO_OFFSETS

    # -- inside ---------------------------------------------------------------------------------

    def _take_some(self, bits: int, limit: int) -> Offsets:
        """Up to `limit` places of the lowest slab that has any."""
        if not self._open[bits]:
            self._add_slab(bits)
        index = self._open[bits][0]
        slab = self._slabs[index]
        places = slab.take(limit)
        if not slab.free_count:
            del self._open[bits][0]
        self.live[bits] += len(places)
        offsets: Offsets = index * self.slab_bytes + places * self.block_bytes[bits]
        return offsets

    def _add_slab(self, bits: int) -> None:
        index = heapq.heappop(self._spare)
        self._slabs[index] = _Slab(bits, self.per_slab[bits])
        self._used[bits] += 1
        insort(self._open[bits], index)

    def _give_in(self, index: int, offsets: Offsets) -> None:
        slab = self._slabs[index]
        places = (offsets - index * self.slab_bytes) // self.block_bytes[slab.bits]
        if slab.free[places].any():
            raise OutOfSlabsError("a place was given back twice")
        if not slab.free_count:
            insort(self._open[slab.bits], index)
        slab.free[places] = True
        slab.free_count += len(places)
        self.live[slab.bits] -= len(places)
        if slab.free_count == len(slab.free):
            self._open[slab.bits].remove(index)
            self._used[slab.bits] -= 1
            del self._slabs[index]
            heapq.heappush(self._spare, index)
