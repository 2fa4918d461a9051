"""Places on the device of cached blocks in the shared tree (`superinfer.memory.index.node`)."""

from __future__ import annotations

import numpy as np

from executor.kv.placer import Held, Placer
from executor.kv.tables import BlockTable
from superinfer.memory.index.node import Node
from superinfer.sequence import Sequence


class TreePlaces:
    """What each node has on the device; the tables are those of the placer."""

    def __init__(self, device: Placer) -> None:
        self._device = device

    # -- what the engine tells ------------------------------------------------------------------

    def published(self, seq: Sequence, above: Node | None) -> None:
        """Nodes of a sequence below `above` get the places of its blocks, or it gets theirs."""
        held = self._device.held[seq]
        for node in _path(seq.node, above):
            self._share(held, node)
        held.shared = seq.shared_blocks

    def answered(self, seq: Sequence, leaf: Node) -> None:
        """Each node of an answer gets the first blocks of its precision that are left."""
        held = self._device.held[seq]
        offsets, bits = held.own, held.table.bits[held.shared :].copy()
        left = np.ones(len(offsets), np.bool_)
        for node in _path(leaf, seq.node):
            where = np.flatnonzero(left & (bits == node.bits))[: node.blocks]
            table = self._device.nodes[node] = BlockTable(node.blocks)
            table.append(offsets[where], node.bits)
            left[where] = False
        rest = offsets[left], bits[left]
        held.table.truncate(held.shared)
        held.table.append(*rest)

    def split(self, upper: Node, lower: Node) -> None:
        """Two nodes of one, `lower`."""
        nodes = self._device.nodes
        table = nodes.get(lower)
        if table is None:
            return
        for node, where in ((upper, slice(upper.blocks)), (lower, slice(upper.blocks, None))):
            part = nodes[node] = BlockTable(node.blocks)
            part.append(table.offsets[where], table.bits[where])

    def trimmed(self, node: Node, blocks: int) -> None:
        """Its last blocks go: their places are free when nobody has to read them any more."""
        table = self._device.nodes[node]
        left = len(table) - blocks
        self._device.trimmed.append(table.offsets[left:].copy())
        if left:
            table.truncate(left)
        else:
            del self._device.nodes[node]

    # -- what a plan asks for -------------------------------------------------------------------

    def lacking(self, seq: Sequence) -> list[Node]:
        """Nodes that a sequence found and that have no place on the device yet."""
        return [node for node in _path(seq.node, None) if node not in self._device.nodes]

    def seat(self, seq: Sequence, held: Held) -> None:
        """The table of a sequence begins with the blocks of the nodes that it found."""
        for node in _path(seq.node, None):
            table = self._device.nodes[node]
            held.table.append(table.offsets, table.bits)

    # -- inside ---------------------------------------------------------------------------------

    def _share(self, held: Held, node: Node) -> None:
        """One place for what a sequence and a node of its path both have."""
        nodes, where = self._device.nodes, slice(node.start, node.stop)
        table = nodes.get(node)
        if table is None:  # new, or on the host alone till now
            table = nodes[node] = BlockTable(node.blocks)
            table.append(held.table.offsets[where], held.table.bits[where])
        elif len(table) < node.blocks:
            new = slice(node.start + len(table), node.stop)
            table.append(held.table.offsets[new], held.table.bits[new])
        elif table.bits[0] != node.bits:  # others had it with fewer bits than this one may have
            self._device.places.give(table.offsets)
            table.put(slice(None), held.table.offsets[where], held.table.bits[where])
        else:
            self._device.wait_for("h2d", table.offsets)  # it may be being loaded for another one
            self._device.places.give(held.table.offsets[where])
            held.table.put(where, table.offsets, table.bits)


def _path(node: Node | None, above: Node | None) -> list[Node]:
    """The nodes down to `node`, from below `above` on; `node` itself in any case."""
    if node is None:
        return []
    path = [node]
    for step in node.path():
        if step is above:
            break
        if step is not node:
            path.append(step)
    return path[::-1]
