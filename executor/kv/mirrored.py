"""Places on the host of copies of blocks whose sequences go on running (`transfers.mirror`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from executor.kv.host import HostBlocks, HostPlaces
from executor.kv.placer import Placer
from executor.kv.tables import BlockTable, CopyJob, Offsets
from superinfer.plan import Transfer
from superinfer.sequence import Sequence
from superinfer.transfers.mirror import Mirror

Copies = dict[int, tuple[int, int]]
"""Of one member: place on the host and bits, by block."""


@dataclass(slots=True, eq=False)
class _Writing:
    """The transfer under way."""

    transfer: Transfer
    blocks: list[tuple[Sequence, Copies, int, int]]
    """Whose copies they will be, which they were when it began, block and bits."""
    host: Offsets


class MirrorPlaces:
    """The copies that are kept, by member: each of the bits that the block has now."""

    def __init__(self, host: HostPlaces) -> None:
        self._host = host
        self._members: dict[Sequence, Copies] = {}
        self._leaving: dict[Sequence, Copies] = {}
        """Copies of those that the plan takes to the host."""
        self._writing: _Writing | None = None

    # -- who comes and goes ---------------------------------------------------------------------

    def keep(self, seq: Sequence, hosted: HostBlocks, blocks: int) -> None:
        """The first blocks of what was on the host stay there as copies; the others go."""
        places, bits = hosted.offsets[:blocks].tolist(), hosted.bits[:blocks].tolist()
        self._members[seq] = dict(enumerate(zip(places, bits, strict=True)))
        self._host.give(hosted.offsets[blocks:])

    def leave(self, seq: Sequence, to_host: bool) -> None:
        """A member is one no more."""
        copies = self._members.pop(seq, {})
        if to_host:  # maybe for the second time in a plan
            self._leaving[seq] = self._leaving.get(seq, {}) | copies
        else:
            self._give(copies)

    def requantised(self, seq: Sequence, table: BlockTable) -> None:
        """Copies of blocks that have other bits now go; others that are under way are not kept."""
        copies = self._members.pop(seq, {})
        stale = {block: copy for block, copy in copies.items() if copy[1] != table.bits[block]}
        self._give(stale)
        self._members[seq] = {n: copy for n, copy in copies.items() if n not in stale}

    def forget(self, seq: Sequence) -> None:
        """It was to be taken to the host, and has been dropped since."""
        self._give(self._leaving.pop(seq, {}))

    def swap_out(self, seq: Sequence, table: BlockTable, stop: int) -> tuple[HostBlocks, Offsets]:
        """Where the first `stop` blocks of a sequence are on the host, and which have to be copied
        there: those without a copy.
        """
        copies = self._leaving.pop(seq, {})
        bits = table.bits[:stop].copy()
        places = np.full(stop, -1, np.int64)
        for block, (place, _) in copies.items():
            places[block] = place
        dirty = np.flatnonzero(places < 0)
        places[dirty] = self._host.take(bits[dirty])
        return HostBlocks(places, bits), dirty

    # -- copies ---------------------------------------------------------------------------------

    def write(self, mirror: Mirror, transfer: Transfer, device: Placer) -> CopyJob:
        """Places for what the mirror has chosen to copy."""
        blocks: list[tuple[Sequence, Copies, int, int]] = []
        places: list[Offsets] = []
        for seq, start, stop in mirror.chosen():
            table, copies = device.held[seq].table, self._members.setdefault(seq, {})
            bits = table.bits[start:stop].tolist()
            blocks += [(seq, copies, start + n, bit) for n, bit in enumerate(bits)]
            places.append(table.offsets[start:stop])
        all_bits = np.array([bits for _, _, _, bits in blocks], np.int8)
        host = self._host.take(all_bits)
        self._writing = _Writing(transfer, blocks, host)
        return CopyJob(transfer, "d2h", np.concatenate(places), all_bits, host)

    def landed(self, transfer: Transfer) -> None:
        """The transfer is over: what members have lost meanwhile, and left, goes."""
        writing = self._writing
        if writing is None or writing.transfer is not transfer:
            return
        self._writing = None
        for (seq, copies, block, bits), place in zip(writing.blocks, writing.host, strict=True):
            if self._members.get(seq) is copies:
                copies[block] = int(place), bits
            else:
                self._host.give(np.array([place]))

    def give_up(self) -> None:
        """What the transfer brings is not kept: copies that follow it take its places."""
        if self._writing is not None:
            self._host.give(self._writing.host)
            self._writing = None

    # -- inside ---------------------------------------------------------------------------------

    def _give(self, copies: Copies) -> None:
        self._host.give(np.array([place for place, _ in copies.values()], np.int64))
