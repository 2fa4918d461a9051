"""What blocks are worth after a use of their prompt, and leaves in that order."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from superinfer.memory.orders.base import key_position
from superinfer.memory.prefix import Node
from superinfer.memory.reuse.history import Visit
from superinfer.memory.reuse.value import used_within
from superinfer.request import Request


class Appraisal(NamedTuple):
    """What the stretches of a prompt are worth, by bins of age."""

    values: list[list[float]]
    """One more, 0, for what is older."""
    unused: list[list[float]]
    """Probabilities of no use up to the end of each bin."""


@dataclass(slots=True, eq=False)
class Worth:
    """What the blocks of a prompt are worth after its use: steps over age, for each stretch."""

    request: Request
    used_s: float
    visit: Visit
    found_blocks: int = 0
    """In the cache when the request came."""
    values: list[list[float]] = field(default_factory=list)
    """For each stretch the value in each bin of age. Empty until it is appraised."""
    unused: list[list[float]] = field(default_factory=list)
    """For each stretch the probability of no use up to the end of each bin."""
    prices: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    """For each stretch what a hit is worth on a tier, by the bits of the block."""
    kept_s: float = 0.0
    """When blocks of it went to the host, if any did."""
    kept_chance: float = 0.0
    """How likely a use of them seemed then."""

    def stretch(self, node: Node, block_tokens: int) -> int:
        """Which stretch of the prompt a node's last block is in."""
        position = key_position(node, node.stop - 1, block_tokens)
        starts = self.visit.starts
        stretch = len(starts) - 1
        while starts[stretch] > position:
            stretch -= 1
        return stretch

    def first_block(self, node: Node, block_tokens: int) -> int:
        """Where the part of a node begins that is in the stretch of its last block."""
        if node.answer:
            return node.start
        first = self.visit.starts[self.stretch(node, block_tokens)]
        return max(node.start, first * node.hash_tokens // block_tokens)


Pricing = Callable[[Worth, int], list[float] | None]
"""What a hit on a block of so many bits is worth for the room of one of 16 bits, for each stretch;
None where each counts one."""
Entry = tuple[float, int, int, Node, Worth, float, int]
"""Value or time of last use, minus the depth, turn, the leaf, until when this holds, and the bits
for which it does."""


class ValueQueue:
    """Leaves of one tier, lowest value first, of equals the deepest, of equally deep
    ones that which was queued last.

    A value changes when the age of a block passes an edge, and two heaps follow that: leaves by
    value, and the moments at which a leaf's value changes.
    """

    def __init__(
        self,
        edges_s: Sequence[float],
        block_tokens: int,
        reclaimable: Callable[[Node], bool],
        pricing: Pricing,
    ) -> None:
        self._edges_s = [*edges_s, math.inf]
        self._block_tokens = block_tokens
        self._reclaimable, self._pricing = reclaimable, pricing
        self._leaves: list[Entry] = []
        self._changes: list[tuple[float, int, Node, Worth]] = []
        self._pushed = 0
        self.plain = False
        """True while leaves go by age alone."""

    def push(self, node: Node, now: float) -> None:
        """Queue a leaf by its present value."""
        worth: Worth = node.note
        if self.plain:
            self._enter(node.last_access_s, node, worth, math.inf)
            return
        if node.answer:
            self._enter(0.0, node, worth, math.inf)
            return
        edge = self._edge(worth, now)
        until_s = worth.used_s + self._edges_s[edge]
        self._enter(self._value(node, worth, edge), node, worth, until_s)
        if until_s < math.inf:
            heapq.heappush(self._changes, (until_s, self._pushed, node, worth))

    def pop(self, blocks: int, now: float) -> tuple[Node, int] | None:
        """Take the first leaf, and how many of its blocks go: back to where its stretch begins, and
        no further than to where the next one of the same rank reaches.
        """
        entry = self._first(now)
        if entry is None:
            return None
        rank, depth, _, node, worth, _, _ = heapq.heappop(self._leaves)
        count = min(blocks, node.stop - worth.first_block(node, self._block_tokens))
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
        worth: Worth = node.note
        return self._value(node, worth, self._edge(worth, now))

    def chance(self, node: Node, now: float, life_s: float) -> float:
        """The probability that its last block is used in the next `life_s` seconds."""
        worth: Worth = node.note
        unused = worth.unused[worth.stretch(node, self._block_tokens)]
        return used_within(unused, self._edges_s[:-1], now - worth.used_s, life_s)

    def changed(self, now: float) -> list[Node]:
        """Leaves whose value has changed since they were queued."""
        changes, found = self._changes, []
        while changes and changes[0][0] <= now:
            _, _, node, worth = heapq.heappop(changes)
            if node.note is worth and self._reclaimable(node):
                found.append(node)
        return found

    def clear(self) -> list[Node]:
        """Forget the order of all leaves; returns them."""
        nodes = [entry[3] for entry in self._leaves if self._current(entry)]
        self._leaves, self._changes = [], []
        return list(dict.fromkeys(nodes))

    # -- inside ---------------------------------------------------------------------------------

    def _enter(self, rank: float, node: Node, worth: Worth, until_s: float) -> None:
        self._pushed -= 1  # breaks ties, so that nodes are never compared
        entry = (rank, -node.stop, self._pushed, node, worth, until_s, node.bits)
        heapq.heappush(self._leaves, entry)

    def _first(self, now: float) -> Entry | None:
        """The first entry that still holds; leaves whose value has changed are queued before."""
        for node in self.changed(now):
            self.push(node, now)
        leaves = self._leaves
        while leaves:
            entry = leaves[0]
            if entry[5] > now and self._current(entry):
                return entry
            heapq.heappop(leaves)
        return None

    def _current(self, entry: Entry) -> bool:
        """Whether it tells the present state of a leaf."""
        rank, depth, _, node, worth, _, bits = entry
        if node.note is not worth or -node.stop != depth or node.bits != bits:
            return False
        return self._reclaimable(node) and (not self.plain or node.last_access_s == rank)

    def _edge(self, worth: Worth, now: float) -> int:
        edge = 0
        while worth.used_s + self._edges_s[edge] <= now:
            edge += 1
        return edge

    def _value(self, node: Node, worth: Worth, edge: int) -> float:
        if node.answer:
            return 0.0
        stretch = worth.stretch(node, self._block_tokens)
        prices = self._pricing(worth, node.bits)
        value = worth.values[stretch][edge]
        return value if prices is None else value * prices[stretch]
