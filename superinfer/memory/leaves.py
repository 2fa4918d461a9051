"""Reclaimable leaves in the order of a rank: what most memory policies keep of one tier."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from superinfer.errors import PlanError
from superinfer.heaps import FEWEST, sweep
from superinfer.memory.index.node import Node
from superinfer.settings import shown_value

Rank = tuple[float, ...]


class Leaves:
    """A queue of leaves, lowest rank first and the deepest first among equals.

    A node may be pushed again whenever it changes: an entry counts only while it tells the present
    rank and depth of a node that can still be reclaimed.
    """

    __slots__ = ("_heap", "_most", "_pushed", "_rank", "_reclaimable")

    def __init__(self, rank: Callable[[Node], Rank], reclaimable: Callable[[Node], bool]) -> None:
        self._rank, self._reclaimable = rank, reclaimable
        self._heap: list[tuple[Rank, int, int, Node]] = []
        self._pushed = 0
        self._most = FEWEST
        """With more entries than this, those of former ranks are looked for."""

    def push(self, node: Node) -> None:
        """Queue a leaf by its present rank; PlanError for one with a nan in it."""
        if len(self._heap) > self._most:
            self._most = sweep(self._heap, self._may_hold)
        rank = self._rank(node)
        parts: tuple[object, ...] = rank  # whatever a policy of one's own makes it of
        for part in parts:
            if part != part:  # noqa: PLR0124 - true of nan alone, which has no place among others
                raise PlanError(f"a leaf has the rank {shown_value(rank)}: expected no nan in it")
        self._pushed += 1  # breaks ties, so that nodes are never compared
        heapq.heappush(self._heap, (rank, -node.stop, self._pushed, node))

    def victim(self, blocks: int) -> tuple[Node, int] | None:
        """Take the first leaf, and how many of its blocks go: no more than `blocks`, and no further
        than to where the next one of the same rank reaches. What is left of it is pushed again.
        """
        entry = self._peek()
        if entry is None:
            return None
        rank, depth, _, node = heapq.heappop(self._heap)
        count = min(blocks, node.blocks)
        rival = self._peek()
        if rival is not None and rival[0] == rank:
            count = min(count, max(1, rival[1] - depth))
        return node, count

    def _may_hold(self, entry: tuple[Rank, int, int, Node]) -> bool:
        """False for former ranks and nodes that are gone: what ranks high and is used again and
        again would have an entry for each use.
        """
        rank, _, _, node = entry
        return node.parent is not None and self._rank(node) == rank

    def _peek(self) -> tuple[Rank, int, int, Node] | None:
        """The first entry that still describes its node."""
        heap = self._heap
        while heap:
            rank, depth, _, node = heap[0]
            if -node.stop == depth and self._reclaimable(node) and self._rank(node) == rank:
                return heap[0]
            heapq.heappop(heap)
        return None
