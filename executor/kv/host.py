"""Places of blocks on the host."""

from __future__ import annotations

from dataclasses import dataclass

from executor.kv.arena import ArenaSize, HostArena
from executor.kv.slabs import OutOfSlabsError, SlabAllocator, places_of
from executor.kv.tables import Bits, Offsets


@dataclass(slots=True, eq=False)
class HostBlocks:
    """Blocks on the host, in the order of tokens."""

    offsets: Offsets
    """In the host arena, in bytes."""
    bits: Bits


class HostPlaces:
    """Hands out the places of a host arena, the lowest first, each precision in slabs of its own.

    The core counts bytes. Part-filled slabs take more, and a plan may take places that only come
    free with a copy of the same plan that has to come later: the arena then grows by a chunk, for
    good.
    """

    def __init__(self, arena: HostArena | None, size: ArenaSize | None = None) -> None:
        """`size` tells the slabs, which are the device's."""
        self._arena = arena
        if arena is None:
            self._places = SlabAllocator(0, 1, {16: 1}, {16: 1})
            return
        whole, per_slab = {16: arena.block_bytes}, {16: arena.chunk_blocks}
        if size is not None and len(size.block_bytes) > 1:
            whole, per_slab = size.block_bytes, size.per_slab
        if arena.chunk_blocks % per_slab[16]:
            raise ValueError(f"chunks of {arena.chunk_blocks} blocks, slabs of {per_slab[16]}")
        slab_bytes = whole[16] * per_slab[16]
        slabs = arena.blocks // per_slab[16]
        self._places = SlabAllocator(slabs, slab_bytes, whole, per_slab)

    @property
    def taken(self) -> int:
        """Blocks that have places."""
        return sum(self._places.live.values())

    @property
    def taken_bytes(self) -> int:
        """Bytes of these."""
        places = self._places
        return sum(count * places.block_bytes[bits] for bits, count in places.live.items())

    def take(self, bits: Bits) -> Offsets:
        """A place for each block of these precisions."""
        return places_of(bits, self._take)

    def give(self, offsets: Offsets) -> None:
        """Take back places that `take` gave."""
        self._places.give(offsets)

    # -- inside ---------------------------------------------------------------------------------

    def _take(self, bits: int, count: int) -> Offsets:
        lacking = count - self._places.room(bits)
        if lacking > 0:
            self._grow(-(-lacking // self._places.per_slab[bits]))
        return self._places.take(bits, count)

    def _grow(self, slabs: int) -> None:
        if self._arena is None:
            raise OutOfSlabsError("blocks go to the host, and there is no host arena")
        per_slab, known = self._places.per_slab[16], self._places.slab_count
        self._arena.grow_to((known + slabs) * per_slab)
        self._places.add(self._arena.blocks // per_slab - known)
