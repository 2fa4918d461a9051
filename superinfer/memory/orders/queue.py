"""Leaves of one tier in the order of values that change while a block waits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from mypy_extensions import mypyc_attr

from superinfer.heaps import FEWEST, heappop, heappush, keep
from superinfer.memory.index.node import Node
from superinfer.memory.orders.agenda import Agenda
from superinfer.memory.orders.worth import Pricing, Standing, Worth
from superinfer.memory.reuse.value import used_within


class Entry:
    """One place of a leaf in the order."""

    __slots__ = ("depth", "of_equals", "rank", "standing", "turn")

    def __init__(self, rank: float, of_equals: float, turn: int, standing: Standing) -> None:
        self.rank = rank
        """A bound of the value, or the time of the last use."""
        self.depth: int = standing.stop
        self.of_equals = of_equals
        """Minus the time of the use that is valued, if it is worth anything."""
        self.turn = turn
        """It falls, and breaks ties."""
        self.standing = standing

    def __lt__(self, other: Entry) -> bool:
        if self.rank != other.rank:
            return self.rank < other.rank
        if self.depth != other.depth:
            return self.depth > other.depth
        if self.of_equals != other.of_equals:
            return self.of_equals < other.of_equals
        return self.turn < other.turn


NO_VALUES: Final[list[float]] = []
SPARE: Final = 1.25
"""A leaf is looked at again when it may be worth less than so many times what goes now."""


@mypyc_attr(allow_interpreted_subclasses=True)
class ValueQueue:
    """Leaves of one tier, lowest value first, of equals the deepest, of equally deep ones the one
    that was used last, or queued last if they are worth nothing.

    A value changes when the age of a block passes an edge. A leaf is queued by the least that it is
    worth in some bins to come, as many as keep it well above what goes at present, and again when
    these are over or when it comes to the front: few leaves are touched at every edge. A subclass
    knows which leaves may go.
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
        self._turn = 0
        self._floor = 0.0
        """`SPARE` times the value of what was first when somebody asked last."""
        self.plain = False
        """True while leaves go by age alone."""

    def free(self, node: Node) -> bool:
        """Whether a node may go at all."""
        raise NotImplementedError

    def push(self, node: Node, now: float) -> None:
        """Queue a leaf by its present value."""
        worth: Worth = node.note
        if len(self._leaves) > self._most:
            self._sweep(now)
        if self.plain:
            self._enter(node.last_access_s, 0.0, Standing(node, worth, NO_VALUES, 1.0))
            return
        if node.answer:
            self._enter(0.0, 0.0, Standing(node, worth, NO_VALUES, 1.0))
            return
        stretch = worth.stretch(node, self._block_tokens)
        price = self._pricing(worth, stretch, node.bits)
        values = worth.values(stretch)
        self._stand(Standing(node, worth, values, price), self._floor, now)

    def pop(self, blocks: int, now: float) -> tuple[Node, int] | None:
        """Take the first leaf, and how many of its blocks go: back to where its stretch begins, and
        no further than to where the next one of the same rank reaches.
        """
        entry = self._first(now)
        if entry is None:
            return None
        heappop(self._leaves)
        standing = entry.standing
        node = standing.node
        count = min(blocks, node.stop - standing.worth.first_block(node, self._block_tokens))
        if count > 1:
            rival = self._first(now)
            if rival is not None and rival.rank == entry.rank:
                count = min(count, entry.depth - rival.depth)
        return node, max(1, count)

    def lowest(self, now: float) -> float | None:
        """The value of the first leaf."""
        entry = self._first(now)
        return None if entry is None else entry.rank

    def value(self, node: Node, now: float) -> float:
        """What a leaf is worth, wherever it is."""
        if node.answer:
            return 0.0
        worth: Worth = node.note
        stretch = worth.stretch(node, self._block_tokens)
        value = worth.values(stretch)[self._edge(worth.used_s, now)]
        return value * self._pricing(worth, stretch, node.bits)

    def chance(self, node: Node, now: float, life_s: float) -> float:
        """The probability that its last block is used in the next `life_s` seconds."""
        worth: Worth = node.note
        unused = worth.unused(worth.stretch(node, self._block_tokens))
        return used_within(unused, self._ends_s, now - worth.used_s, life_s)

    def follow(self, now: float) -> None:
        """Queue the leaves again whose value may have fallen below that of their entry."""
        if not self._changes.due(now):
            return
        for standing in self._changes.take(now):
            # Whoever changes a leaf queues it again.
            if not standing.replaced and standing.holds and self.free(standing.node):
                self._stand(standing, self._floor, now)
        if len(self._leaves) > self._most:
            self._sweep(now)

    def clear(self) -> list[Node]:
        """Forget the order of all leaves; returns them."""
        nodes = [entry.standing.node for entry in self._leaves if self._current(entry)]
        self._leaves, self._changes, self._most = [], Agenda(), FEWEST
        return list(dict.fromkeys(nodes))

    # -- inside ---------------------------------------------------------------------------------

    def _stand(self, standing: Standing, floor: float, now: float) -> None:
        """Queue a leaf by its value now or, while that is above `floor`, by the least that it is
        worth in bins to come.
        """
        values, price, edges_s = standing.values, standing.price, self._edges_s
        edge = self._edge(standing.used_s, now)
        least, last = values[edge] * price, len(edges_s) - 1
        while edge < last:
            coming = values[edge + 1] * price
            if coming < least:
                if coming <= floor:
                    break
                least = coming
            edge += 1
        standing.lasts_s = lasts_s = standing.used_s + edges_s[edge]
        self._enter(least, -standing.used_s if least else 0.0, standing)
        if lasts_s < math.inf:
            self._changes.add(standing)

    def _enter(self, rank: float, of_equals: float, standing: Standing) -> None:
        self._turn -= 1
        standing.turn = turn = self._turn
        heappush(self._leaves, Entry(rank, of_equals, turn, standing))

    def _sweep(self, now: float) -> None:
        """Drop entries that hold no longer: what is worth most comes to the top last. Whoever uses
        or changes a leaf queues it again.
        """
        kept = [entry for entry in self._leaves if self._may_hold(entry, now)]
        self._most = keep(self._leaves, kept)

    def _may_hold(self, entry: Entry, now: float) -> bool:
        standing = entry.standing
        node = standing.node
        if entry.turn != standing.turn or standing.lasts_s <= now or not standing.holds:
            return False
        if self.plain and entry.rank != node.last_access_s:
            return False
        return node.parent is not None

    def _first(self, now: float) -> Entry | None:
        """The entry of the lowest value, which that tells exactly."""
        self.follow(now)
        leaves = self._leaves
        while leaves:
            entry = leaves[0]
            standing = entry.standing
            if standing.lasts_s <= now or not self._current(entry):
                heappop(leaves)
                continue
            if not standing.values:
                return entry
            value = standing.values[self._edge(standing.used_s, now)] * standing.price
            if value <= entry.rank:
                self._floor = SPARE * value
                return entry
            heappop(leaves)
            self._stand(standing.again(), math.inf, now)
        return None

    def _current(self, entry: Entry) -> bool:
        """Whether it tells the present state of a leaf."""
        standing = entry.standing
        node = standing.node
        if entry.turn != standing.turn or not standing.holds or not self.free(node):
            return False
        return not self.plain or node.last_access_s == entry.rank

    def _edge(self, used_s: float, now: float) -> int:
        """The bin of the age of what was used then."""
        edges_s, edge = self._edges_s, 0
        while used_s + edges_s[edge] <= now:
            edge += 1
        return edge
