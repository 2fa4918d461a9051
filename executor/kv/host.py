"""Places of blocks on the host, all of one size whatever the precision, as the core counts them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from executor.kv.arena import HostArena
from executor.kv.slabs import OutOfSlabsError
from executor.kv.tables import NO_OFFSETS, Bits, Offsets


@dataclass(slots=True, eq=False)
class HostBlocks:
    """Blocks on the host, in the order of tokens."""

    offsets: Offsets
    """In the host arena, in bytes."""
    bits: Bits


class HostPlaces:
    """Hands out the places of a host arena, the lowest first.

    A plan may take places that only come free with a copy of the same plan that has to come later:
    the arena then grows by a chunk, for good.
    """

    def __init__(self, arena: HostArena | None) -> None:
        self._arena = arena
        self._free = np.ones(arena.blocks if arena is not None else 0, np.bool_)
        self._free_count = len(self._free)
        self._block_bytes = arena.block_bytes if arena is not None else 1

    @property
    def taken(self) -> int:
        """Places that are taken."""
        return len(self._free) - self._free_count

    def take(self, count: int) -> Offsets:
        """Places for so many blocks."""
        if not count:
            return NO_OFFSETS
        if count > self._free_count:
            self._grow(count - self._free_count)
        places = np.flatnonzero(self._free)[:count]
        self._free[places] = False
        self._free_count -= count
        return places * self._block_bytes

    def give(self, offsets: Offsets) -> None:
        """Take back places that `take` gave."""
        places = offsets // self._block_bytes
        if self._free[places].any():
            raise OutOfSlabsError("a place on the host was given back twice")
        self._free[places] = True
        self._free_count += len(places)

    # -- inside ---------------------------------------------------------------------------------

    def _grow(self, blocks: int) -> None:
        if self._arena is None:
            raise OutOfSlabsError("blocks go to the host, and there is no host arena")
        before = len(self._free)
        self._arena.grow_to(before + blocks)
        more = self._arena.blocks - before
        self._free = np.concatenate([self._free, np.ones(more, np.bool_)])
        self._free_count += more
