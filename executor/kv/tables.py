"""Where the blocks of a sequence are, and the orders that change it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from superinfer.plan import Direction, Transfer

Offsets = NDArray[np.int64]
"""Places of blocks in an arena, in bytes from its beginning."""
Bits = NDArray[np.int8]
"""16, 8 or 4 for each block."""

Where = slice | NDArray[np.intp]
"""Entries of a table."""

NO_OFFSETS: Offsets = np.empty(0, np.int64)
NO_BITS: Bits = np.empty(0, np.int8)
_FIRST_ROOM = 8
"""Blocks for which a new table has room."""


class BlockTable:
    """The blocks of one sequence in the order of its tokens. Only a `BlockManager` changes it."""

    __slots__ = ("_bits", "_offsets", "changes", "length")

    def __init__(self, room: int = _FIRST_ROOM) -> None:
        self._offsets = np.empty(max(1, room), np.int64)
        self._bits = np.empty(max(1, room), np.int8)
        self.length = 0
        self.changes = 0
        """Times that entries which were there already got another place or precision, or went:
        while it stays the same, the table has at most grown."""

    def __len__(self) -> int:
        return self.length

    @property
    def offsets(self) -> Offsets:
        """Byte offset in the arena of each block. A view: it is good until the next plan."""
        return self._offsets[: self.length]

    @property
    def bits(self) -> Bits:
        """Precision of each block. A view, too."""
        return self._bits[: self.length]

    def append(self, offsets: Offsets, bits: int | Bits) -> None:
        """Add blocks at the end."""
        stop = self.length + len(offsets)
        if stop > len(self._offsets):
            room = max(stop, 2 * len(self._offsets))
            self._offsets = np.resize(self._offsets, room)
            self._bits = np.resize(self._bits, room)
        self._offsets[self.length : stop] = offsets
        self._bits[self.length : stop] = bits
        self.length = stop

    def put(self, places: Where, offsets: Offsets, bits: int | Bits) -> None:
        """Give the blocks at `places` of the table other places in the arena, and these bits."""
        self.offsets[places] = offsets
        self.bits[places] = bits
        self.changes += 1

    def truncate(self, length: int) -> None:
        """Forget the blocks behind the first `length`."""
        if length < self.length:
            self.length = length
            self.changes += 1


@dataclass(slots=True, eq=False)
class RequantiseJob:
    """Rewrite full blocks with fewer bits in other places."""

    from_bits: int
    to_bits: int
    sources: Offsets
    targets: Offsets


@dataclass(slots=True, eq=False)
class MoveJob:
    """Move blocks inside the arena, so that a slab comes free. No target is a source."""

    bits: int
    sources: Offsets
    targets: Offsets
    after: list[CopyJob] = field(default_factory=list)
    """Copies under way that read or write the sources: they have to be over first."""


@dataclass(slots=True, eq=False)
class WaitJob:
    """Wait for copies under way: the places that they read are handed out again, or what they
    bring is used before they are known to have landed.
    """

    after: list[CopyJob]


@dataclass(slots=True, eq=False)
class CopyJob:
    """Copy blocks between the device and the host: what a transfer of the plan means."""

    transfer: Transfer | None
    """None for a copy that the core books with a later plan, or not at all: the step waits for it.
    """
    direction: Direction
    device: Offsets
    bits: Bits
    host: Offsets
    """Byte offsets in the host arena."""

    @property
    def background(self) -> bool:
        """True if no step waits for it."""
        return self.transfer is not None and self.transfer.timing == "background"


Order = RequantiseJob | MoveJob | WaitJob | CopyJob


@dataclass(slots=True, eq=False)
class Moves:
    """What a plan moves, in order: it has to look as if one were over when the next one begins, and
    all of them when the plan's first step begins. Background copies may end later; nobody touches
    their blocks before they have landed, unless an order names them (`after`).
    """

    orders: list[Order] = field(default_factory=list)

    @property
    def copies(self) -> list[CopyJob]:
        """Those that use a link to the host."""
        return [order for order in self.orders if isinstance(order, CopyJob)]

    def one_way_at_a_time(self) -> Moves:
        """Of the copies that the step waits for, those that go the other way begin when the ones
        before are over: not every system uses both directions at once (`Plan.full_duplex`).
        """
        orders, ahead = list[Order](), list[CopyJob]()
        for order in self.orders:
            if isinstance(order, CopyJob) and not order.background:
                if ahead and ahead[-1].direction != order.direction:
                    orders.append(WaitJob(ahead))
                    ahead = []
                ahead.append(order)
            orders.append(order)
        return Moves(orders)
