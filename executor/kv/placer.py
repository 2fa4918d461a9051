"""Which place belongs to whom on the device, and how room is made there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from executor.kv.slabs import OutOfSlabsError, SlabAllocator, places_of
from executor.kv.tables import (
    BlockTable,
    CopyJob,
    MoveJob,
    Offsets,
    Order,
    RequantiseJob,
    WaitJob,
)
from superinfer.memory.index.node import Node
from superinfer.plan import Direction
from superinfer.sequence import Sequence


@dataclass(slots=True, eq=False)
class Held:
    """What a sequence has on the device."""

    table: BlockTable
    shared: int = 0
    """Of its blocks, the first ones, which are those of its path in the prefix tree."""

    @property
    def own(self) -> Offsets:
        """Places of the others, which nobody else has."""
        return self.table.offsets[self.shared :]


class Placer:
    """The places of all blocks on the device, by sequence and by node of the prefix tree."""

    def __init__(self, places: SlabAllocator) -> None:
        self.places = places
        self.held: dict[Sequence, Held] = {}
        self.nodes: dict[Node, BlockTable] = {}
        self.flights: list[CopyJob] = []
        """Background copies under way."""
        self.trimmed: list[Offsets] = []
        """Places of dropped nodes. A swap-out of the same plan may still have to read them."""
        self.orders: list[Order] = []
        """What has to be done so that the places hold what they should, in order."""

    # -- room -----------------------------------------------------------------------------------

    def take(self, bits: int, count: int) -> Offsets:
        """Places for so many blocks, made by compaction if there are too few."""
        while self.places.room(bits) < count:
            self.compact(bits)
        return self.places.take(bits, count)

    def take_mixed(self, bits: np.ndarray) -> Offsets:
        """A place for each block of these precisions."""
        if (bits == 16).all():
            return self.take(16, len(bits))
        return places_of(bits, self.take)

    def give_cached(self, offsets: Offsets) -> None:
        """Take back places of cached blocks, which may still be on their way to the host."""
        self.wait_for("d2h", offsets)
        self.places.give(offsets)

    def wait_for(self, direction: Direction, offsets: Offsets) -> None:
        """What follows waits for copies under way to or from these places, if there are any."""
        after = [
            job
            for job in self.flights
            if job.direction == direction and np.isin(job.device, offsets).any()
        ]
        if after:
            self.orders.append(WaitJob(after))

    # -- who has what ---------------------------------------------------------------------------

    def extend(self, held: Held, blocks: int) -> None:
        """Give a sequence 16-bit blocks until it has so many."""
        lacking = blocks - len(held.table)
        if lacking > 0:
            held.table.append(self.take(16, lacking), 16)

    def drop(self, seq: Sequence) -> None:
        """A sequence gives back what is its own."""
        held = self.held.pop(seq, None)
        if held is not None:
            self.places.give(held.own)

    def demote(self, owner: Held | Node, where: np.ndarray, from_bits: int, to_bits: int) -> None:
        """Rewrite blocks of a sequence, or of a node, with fewer bits."""
        table = self.nodes[owner] if isinstance(owner, Node) else owner.table
        while len(where):
            room = self.places.room(to_bits)
            if not room:
                self.compact(to_bits)
                continue
            part, where = where[:room], where[room:]
            targets = self.places.take(to_bits, len(part))
            sources = table.offsets[part]
            self.orders.append(RequantiseJob(from_bits, to_bits, sources, targets))
            self.places.give(sources)
            if isinstance(owner, Node):
                self._put_shared(owner, part, sources, targets, to_bits)
            table.put(part, targets, to_bits)

    def compact(self, for_bits: int) -> None:
        """Empty a slab of another precision."""
        thin = self.places.thin_slabs(for_bits)
        if not thin:
            raise OutOfSlabsError(f"no room for blocks of {for_bits} bits: counts do not fit")
        index = next((slab for slab in thin if not self._copies_in(slab)), thin[0])
        after = self._copies_in(index)
        bits, sources, targets = self.places.empty(index)
        self.orders.append(MoveJob(bits, sources, targets, after))
        first = index * self.places.slab_bytes
        last = first + self.places.slab_bytes
        for table in (*self.nodes.values(), *(held.table for held in self.held.values())):
            where = np.flatnonzero((table.offsets >= first) & (table.offsets < last))
            if len(where):
                found = np.searchsorted(sources, table.offsets[where])
                table.put(where, targets[found], bits)
        for offsets in self.trimmed:
            where = np.flatnonzero((offsets >= first) & (offsets < last))
            offsets[where] = targets[np.searchsorted(sources, offsets[where])]

    # -- inside ---------------------------------------------------------------------------------

    def _copies_in(self, slab: int) -> list[CopyJob]:
        """Copies under way that read or write a slab."""
        size = self.places.slab_bytes
        return [job for job in self.flights if (job.device // size == slab).any()]

    def _put_shared(
        self, node: Node, part: np.ndarray, sources: Offsets, targets: Offsets, bits: int
    ) -> None:
        """Blocks of a node have other places: so it is in the tables of all who hold it."""
        where = part + node.start
        for held in self.held.values():
            if held.shared >= node.stop and held.table.offsets[where[0]] == sources[0]:
                held.table.put(where, targets, bits)
