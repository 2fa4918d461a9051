"""Places on the host of cached prefixes (`superinfer.memory.index.tiered`)."""

from __future__ import annotations

import numpy as np

from executor.kv.host import HostBlocks, HostPlaces
from executor.kv.placer import Placer
from executor.kv.tables import NO_BITS, NO_OFFSETS, BlockTable, CopyJob, Offsets
from superinfer.memory.index.node import Node
from superinfer.plan import Transfer


class TierPlaces:
    """What each node has on the host."""

    def __init__(self, host: HostPlaces, device: Placer) -> None:
        self._host, self._device = host, device
        self.nodes: dict[Node, HostBlocks] = {}
        self._due: dict[Node, None] = {}
        """Nodes whose copies begin with the next plan."""
        self._dropped: dict[Node, HostBlocks] = {}
        """Whole copies that were given up since the plan before: a load may have to read them."""
        self._free: list[Offsets] = []
        """Places of parts that were given up."""

    # -- what happens to a node -----------------------------------------------------------------

    def back_up(self, node: Node) -> None:
        """A place for its copy, which `write` orders. Its own blocks may not be known yet."""
        bits = np.full(node.blocks, node.bits, np.int8)
        self.nodes[node] = HostBlocks(self._host.take(bits), bits)
        self._due[node] = None

    def move(self, node: Node) -> Offsets:
        """It leaves the device, once the copy that it lacks is made; returns the places there."""
        table = self._device.nodes.pop(node, None)
        if table is None:  # it was to be loaded, and never was
            if node in self._dropped:
                if node in self.nodes:  # and it was to get a new copy
                    self._free.append(self.nodes[node].offsets)
                    self._due.pop(node)
                self.nodes[node] = self._dropped.pop(node)
            return NO_OFFSETS
        if not node.on_host:
            self.back_up(node)
        if node in self._due:
            del self._due[node]
            self._device.orders.append(self._job(node, table))  # the device waits for it
        return table.offsets

    def drop(self, node: Node, blocks: int) -> None:
        """The copies of its last blocks go when the next plan is placed."""
        hosted, left = self.nodes[node], node.blocks - blocks
        if left:
            self._free.append(hosted.offsets[left:])
            self.nodes[node] = HostBlocks(hosted.offsets[:left], hosted.bits[:left])
        else:
            del self.nodes[node]
            self._due.pop(node, None)
            if node in self._dropped:  # given up for the second time
                self._free.append(hosted.offsets)
            else:
                self._dropped[node] = hosted

    def join(self, node: Node, child: Node) -> None:
        """One node of two."""
        first, last = self.nodes[node], self.nodes.pop(child)
        offsets = np.concatenate([first.offsets, last.offsets])
        self.nodes[node] = HostBlocks(offsets, np.concatenate([first.bits, last.bits]))

    def split(self, upper: Node, lower: Node) -> None:
        """Two nodes of one, `lower`."""
        cut = upper.blocks
        for known in (self.nodes, self._dropped):
            hosted = known.get(lower)
            if hosted is not None:
                known[upper] = HostBlocks(hosted.offsets[:cut], hosted.bits[:cut])
                known[lower] = HostBlocks(hosted.offsets[cut:], hosted.bits[cut:])
        if lower in self._due:
            self._due[upper] = None

    # -- copies ---------------------------------------------------------------------------------

    def write(self, transfer: Transfer) -> CopyJob:
        """The copies that are due."""
        jobs = [self._job(node, self._device.nodes[node]) for node in self._due]
        self._due.clear()
        return _merged(transfer, jobs)

    def load(self, nodes: list[Node], transfer: Transfer) -> CopyJob:
        """Bring nodes back to the device."""
        jobs = []
        for node in nodes:
            hosted = self._dropped.get(node) or self.nodes[node]  # a new one may be due
            offsets = self._device.take_mixed(hosted.bits)
            table = self._device.nodes[node] = BlockTable(node.blocks)
            table.append(offsets, hosted.bits)
            jobs.append(CopyJob(transfer, "h2d", offsets, hosted.bits, hosted.offsets))
        return _merged(transfer, jobs)

    def lacking(self) -> list[Node]:
        """Nodes that the core has on the device and that have no place there."""
        known = {**self.nodes, **self._dropped}
        return [node for node in known if node.on_device and node not in self._device.nodes]

    def settle(self) -> None:
        """A plan is placed: what was given up is free."""
        for hosted in self._dropped.values():
            self._host.give(hosted.offsets)
        for offsets in self._free:
            self._host.give(offsets)
        self._dropped.clear()
        self._free.clear()

    # -- inside ---------------------------------------------------------------------------------

    def _job(self, node: Node, table: BlockTable) -> CopyJob:
        hosted = self.nodes[node]
        return CopyJob(None, "d2h", table.offsets.copy(), hosted.bits, hosted.offsets)


def _merged(transfer: Transfer, jobs: list[CopyJob]) -> CopyJob:
    device = np.concatenate([NO_OFFSETS, *(job.device for job in jobs)])
    bits = np.concatenate([NO_BITS, *(job.bits for job in jobs)])
    host = np.concatenate([NO_OFFSETS, *(job.host for job in jobs)])
    return CopyJob(transfer, transfer.direction, device, bits, host)
