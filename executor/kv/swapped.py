"""Places on the host of what was swapped out, until it is back and free there."""

from __future__ import annotations

from executor.kv.host import HostBlocks, HostPlaces
from executor.kv.mirrored import MirrorPlaces
from executor.kv.tables import BlockTable, Offsets
from superinfer.sequence import Sequence


class SwappedPlaces:
    """What each swapped sequence has on the host; some of it may stay there as copies."""

    def __init__(self, host: HostPlaces, mirrored: MirrorPlaces) -> None:
        self._host, self._mirrored = host, mirrored
        self.hosted: dict[Sequence, HostBlocks] = {}
        """Of those that are out, or on their way back."""
        self._returned: dict[Sequence, HostBlocks] = {}
        """Of those that have just come back in the background: `keep` may want some of it."""
        self._kept: dict[Sequence, int] = {}
        """Blocks whose places stay, of those that come back with this plan."""

    def swap_out(self, seq: Sequence, table: BlockTable, stop: int) -> tuple[HostBlocks, Offsets]:
        """Places for the first `stop` blocks of a sequence, and which have to be copied there."""
        hosted, dirty = self._mirrored.swap_out(seq, table, stop)
        self.hosted[seq] = hosted
        return hosted, dirty

    def came_back(self, seq: Sequence) -> None:
        """Its copy to the device is ordered ahead of the step: what is not kept is free at once."""
        self._mirrored.keep(seq, self.hosted.pop(seq), self._kept.pop(seq, 0))

    def landed(self, seq: Sequence) -> None:
        """Its copy to the device in the background is over."""
        if seq in self.hosted:
            self._returned[seq] = self.hosted.pop(seq)

    def keep(self, seq: Sequence, blocks: int) -> None:
        """The first blocks stay there as copies, now or when the plan brings the sequence back."""
        if seq in self._returned:
            self._mirrored.keep(seq, self._returned.pop(seq), blocks)
        elif blocks:
            self._kept[seq] = blocks

    def keep_none(self, seq: Sequence) -> None:
        """Nothing stays there as copies when the plan brings the sequence back."""
        self._kept.pop(seq, None)

    def forget(self, seq: Sequence) -> None:
        """Its places are free, if it has any."""
        hosted = self.hosted.pop(seq, None)
        if hosted is not None:
            self._host.give(hosted.offsets)

    def free(self) -> None:
        """Give back the places of those that have come back."""
        for hosted in self._returned.values():
            self._host.give(hosted.offsets)
        self._returned.clear()
