"""Places of cached blocks in an index that follows every decision at once
(`superinfer.memory.vllm_v1.cache`). It knows each block by itself, where the shared tree knows
stretches of them, and all have 16 bits.

A block is findable once its tokens are scheduled, so who finds it may run in the very step that
computes it: every layer writes the keys and values of all rows before any of them attends.
"""

from __future__ import annotations

import numpy as np

from executor.kv.placer import Held, Placer
from executor.kv.tables import NO_OFFSETS, Offsets
from superinfer.memory.vllm_v1.cache import Block, Table
from superinfer.sequence import Sequence


class EagerPlaces:
    """Where each block is that the index knows, in use or free."""

    def __init__(self, device: Placer) -> None:
        self._device = device
        self.blocks: dict[Block, int] = {}
        self.runs: dict[Block, Offsets] = {}
        """Of entries that stand for several blocks, which nobody asks for."""
        self._published: list[Sequence] = []
        self._reclaimed: list[tuple[Block, int]] = []

    @property
    def offsets(self) -> Offsets:
        """All places."""
        single = np.fromiter(self.blocks.values(), np.int64, len(self.blocks))
        return np.concatenate([single, *self.runs.values()])

    # -- what the engine tells ------------------------------------------------------------------

    def published(self, seq: Sequence) -> None:
        """It has new findable blocks, which get names when the next plan is placed: the draft that
        publishes them may still be taken back.
        """
        self._published.append(seq)

    def reclaimed(self, taken: list[tuple[Block, int]]) -> None:
        """Their places are free when the next plan is placed, after whatever it takes away."""
        self._reclaimed += taken

    def answered(self, seq: Sequence, run: Block) -> None:
        """The first blocks that are a sequence's own become a run."""
        held = self._device.held[seq]
        self.name(seq, held)
        own = held.own.copy()
        self.runs[run] = own[: run.blocks]
        held.table.truncate(held.shared)
        held.table.append(own[run.blocks :], 16)

    # -- what a plan asks for -------------------------------------------------------------------

    def settle(self) -> None:
        """What was published between two plans gets its names."""
        for seq in self._published:
            held = self._device.held.get(seq)
            if held is not None:
                self.name(seq, held)
        self._published.clear()

    def leave(self, seq: Sequence, table: Table) -> None:
        """A sequence is dropped; its full blocks stay findable, those of its answer for itself."""
        held = self._device.held.pop(seq)
        kept = np.zeros(len(held.table), np.bool_)
        kept[: held.shared] = True
        for block in table.own:
            place = _place_in_request(block)
            kept[place] = True
            self.blocks[block] = int(held.table.offsets[place])
        self._device.places.give(held.table.offsets[~kept])

    def free(self) -> None:
        """Give back the places of what was reclaimed."""
        parts = [self._taken(block, count) for block, count in self._reclaimed]
        self._reclaimed.clear()
        self._device.places.give(np.concatenate([NO_OFFSETS, *parts]))

    def seat(self, seq: Sequence, held: Held) -> None:
        """The table of a sequence begins with the blocks that it found."""
        found = [block for block in seq.node.blocks if block in self.blocks]
        offsets = [self.blocks[block] for block in found]
        held.table.append(np.array(offsets, np.int64), 16)
        held.shared = len(found)

    def name(self, seq: Sequence, held: Held) -> None:
        """Findable blocks of a sequence that have no places yet get those of its table."""
        if seq.node is None:
            return
        new = range(held.shared, min(len(seq.node.blocks), len(held.table)))
        for place in new:
            self.blocks[seq.node.blocks[place]] = int(held.table.offsets[place])
        held.shared = max(held.shared, new.stop)

    # -- inside ---------------------------------------------------------------------------------

    def _taken(self, block: Block, count: int) -> Offsets:
        """Places of so many blocks of an entry, which has them no more."""
        run = self.runs.pop(block, None)
        if run is None:
            return np.array([self.blocks.pop(block)], np.int64)
        if count < len(run):
            self.runs[block] = run[count:]
        return run[:count]


def _place_in_request(block: Block) -> int:
    """Which block of its request it is, of one that only this request can find."""
    key = block.key
    assert isinstance(key, tuple)
    return int(key[1])
