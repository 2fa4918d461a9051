"""Leaves of one tier in the order of values that change while a block waits."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import Final

from mypy_extensions import mypyc_attr

from superinfer.memory.orders.agenda import Agenda
from superinfer.memory.orders.worth import Pricing, Standing, Worth
from superinfer.memory.prefix import Node
from superinfer.memory.reuse.value import used_within

Entry = tuple[float, int, int, Standing]
"""Value or time of last use, minus the depth, turn, and of whom."""
FEWEST: Final = 1024
"""Entries that are not worth a search for those that hold no longer."""


@mypyc_attr(allow_interpreted_subclasses=True)
class ValueQueue:
    """Leaves of one tier, lowest value first, of equals the deepest, of equally deep
    ones that which was queued last.

    A value changes when the age of a block passes an edge: the leaf is queued again then, and its
    earlier entry counts no longer. A subclass knows which leaves may go.
    """

    def __init__(self, edges_s: Sequence[float], block_tokens: int, pricing: Pricing) -> None:
        self._ends_s: list[float] = list(edges_s)
        self._edges_s: list[float] = [*edges_s, math.inf]
        self._block_tokens = block_tokens
        self._pricing = pricing
        self._leaves: list[Entry] = []
        self._most = FEWEST
        """With more entries than this, those that hold no longer are looked for."""
        self._changes = Agenda()
        self._pushed = 0
        self.plain = False
        """True while leaves go by age alone."""

    def free(self, node: Node) -> bool:
        """Whether a node may go at all."""
        raise NotImplementedError

    def push(self, node: Node, now: float) -> None:
        """Queue a leaf by its present value."""
        worth: Worth = node.note
        if self.plain:
            self._enter(node.last_access_s, Standing(node, worth, []))
        elif node.answer:
            self._enter(0.0, Standing(node, worth, []))
        else:
            self._stand(Standing(node, worth, self._ranks(node, worth)), 0, now)

    def pop(self, blocks: int, now: float) -> tuple[Node, int] | None:
        """Take the first leaf, and how many of its blocks go: back to where its stretch begins, and
        no further than to where the next one of the same rank reaches.
        """
        entry = self._first(now)
        if entry is None:
            return None
        heapq.heappop(self._leaves)
        rank, depth, standing = entry[0], entry[1], entry[3]
        node = standing.node
        count = min(blocks, node.stop - standing.worth.first_block(node, self._block_tokens))
        rival = self._first(now)
        if rival is not None and rival[0] == rank:
            count = min(count, rival[1] - depth)
        return node, max(1, count)

    def lowest(self, now: float) -> float | None:
        """The value of the first leaf."""
        entry = self._first(now)
        return None if entry is None else entry[0]

    def value(self, node: Node, now: float) -> float:
        """What a leaf is worth, wherever it is."""
        if node.answer:
            return 0.0
        worth: Worth = node.note
        return self._ranks(node, worth)[self._edge(worth.used_s, 0, now)]

    def chance(self, node: Node, now: float, life_s: float) -> float:
        """The probability that its last block is used in the next `life_s` seconds."""
        worth: Worth = node.note
        unused = worth.unused[worth.stretch(node, self._block_tokens)]
        return used_within(unused, self._ends_s, now - worth.used_s, life_s)

    def follow(self, now: float) -> None:
        """Queue the leaves again whose value has changed."""
        due = self._changes.take(now)
        if not due:
            return
        changed = [standing for standing in due if self._waits(standing)]
        for standing in changed:
            if standing.holds:
                self._stand(standing, standing.edge + 1, now)
            else:
                self.push(standing.node, now)
        if len(self._leaves) > self._most:
            self._forget(now)

    def clear(self) -> list[Node]:
        """Forget the order of all leaves; returns them."""
        nodes = [entry[3].node for entry in self._leaves if self._current(entry)]
        self._leaves, self._changes, self._most = [], Agenda(), FEWEST
        return list(dict.fromkeys(nodes))

    # -- inside ---------------------------------------------------------------------------------

    def _stand(self, standing: Standing, edge: int, now: float) -> None:
        """Queue a leaf for the bin of its age, which is not below `edge`."""
        standing.edge = edge = self._edge(standing.used_s, edge, now)
        standing.until_s = until_s = standing.used_s + self._edges_s[edge]
        self._enter(standing.ranks[edge], standing)
        if until_s < math.inf:
            self._changes.add(standing)

    def _enter(self, rank: float, standing: Standing) -> None:
        self._pushed -= 1  # breaks ties, so that nodes are never compared
        standing.turn = self._pushed
        heapq.heappush(self._leaves, (rank, -standing.stop, self._pushed, standing))

    def _waits(self, standing: Standing) -> bool:
        """Whether a leaf is still in the queue for the use that it was queued for."""
        node = standing.node
        return node.note is standing.worth and self.free(node)

    def _forget(self, now: float) -> None:
        """Drop entries that can never hold again: else they would keep a place each for ever, for
        what is worth most comes to the top last.
        """
        kept = []
        for entry in self._leaves:
            standing = entry[3]
            latest = entry[2] == standing.turn and standing.until_s > now
            if latest and standing.node.parent is not None:
                kept.append(entry)
        heapq.heapify(kept)
        self._leaves, self._most = kept, max(FEWEST, 2 * len(kept))

    def _first(self, now: float) -> Entry | None:
        """The first entry that still holds; leaves whose value has changed are queued before."""
        self.follow(now)
        leaves = self._leaves
        while leaves:
            entry = leaves[0]
            if entry[3].until_s > now and self._current(entry):
                return entry
            heapq.heappop(leaves)
        return None

    def _current(self, entry: Entry) -> bool:
        """Whether it tells the present state of a leaf."""
        standing = entry[3]
        node = standing.node
        if entry[2] != standing.turn or not standing.holds or not self.free(node):
            return False
        return not self.plain or node.last_access_s == entry[0]

    def _edge(self, used_s: float, edge: int, now: float) -> int:
        """The bin of the age of what was used then, from `edge` on."""
        edges_s = self._edges_s
        while used_s + edges_s[edge] <= now:
            edge += 1
        return edge

    def _ranks(self, node: Node, worth: Worth) -> list[float]:
        """The value of a leaf's last block in each bin of age."""
        stretch = worth.stretch(node, self._block_tokens)
        values = worth.values[stretch]
        prices = self._pricing(worth, node.bits)
        if prices is None:
            return values
        price = prices[stretch]
        return [value * price for value in values]
