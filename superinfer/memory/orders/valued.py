"""An order by values that change while a block waits: what two policies have in common."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from superinfer.memory.orders.base import Surroundings, key_position
from superinfer.memory.orders.guard import Guard
from superinfer.memory.prefix import Node
from superinfer.memory.reuse.history import History, Visit
from superinfer.request import Request

BATCH_SHARE = 0.02
"""Prompts wait to be appraised together until they have this share of the capacity."""


@dataclass(slots=True)
class Worth:
    """What the blocks of a prompt are worth after its use: steps over age, for each stretch."""

    used_s: float
    starts: list[int]
    """First block of each stretch."""
    values: list[list[float]]
    """For each stretch the value in each bin of age; one more, 0, for what is older. Empty until it
    is appraised."""


class Appraiser(Protocol):
    """Says what blocks are worth."""

    @property
    def edges_s(self) -> Sequence[float]:
        """Ends of the bins of age."""
        ...

    def appraise(self, visits: Sequence[Visit]) -> list[list[list[float]]]:
        """For each stretch of prompts that were just used, its value in each bin of age."""
        ...


class ValuedOrder:
    """The lowest value first. A value changes when the age of a block passes an edge, and two heaps
    follow that: leaves by value, and the moments at which a leaf's value changes.
    """

    whole_edges = True

    def __init__(
        self, surroundings: Surroundings, appraiser: Appraiser, guard: Guard | None = None
    ) -> None:
        self._block_tokens = surroundings.block_tokens
        self._appraiser, self._guard = appraiser, guard
        self._plain = False
        """True while leaves go by age alone."""
        self._visits: list[tuple[Worth, Visit]] = []
        """Prompts that wait for a batch."""
        self._visited_blocks = 0
        self._batch_blocks = BATCH_SHARE * surroundings.capacity_blocks
        self._unappraised: list[Node] = []
        """Leaves of these prompts; they stay until the batch is appraised."""
        self._found_blocks = 0
        """Of the present request, in the cache when it came."""
        self._edges_s = [*appraiser.edges_s, math.inf]
        self._history = History()
        self._leaves: list[tuple[float, int, int, Node, Worth, float]] = []
        self._changes: list[tuple[float, int, Node, Worth]] = []
        self._pushed = 0
        self.now_s = 0.0
        self._request: Request | None = None
        self._worth: Worth | None = None

    def retain(self, node: Node, request: Request) -> None:
        """Blocks are appraised when the request that used them lets go of them."""
        if request is not self._request:
            self._request, self._worth, self._found_blocks = request, None, 0
        if node.note is not None and node.note is not request:
            self._found_blocks += node.blocks
        node.note = request

    def unused(self, node: Node) -> None:
        """Queue a leaf by its present value, or leave it until there is one."""
        self.now_s = max(self.now_s, node.last_access_s)
        if isinstance(node.note, Request):
            self._settle(node, node.note)
        if node.note.values or self._plain:
            self._push(node)
        else:
            self._unappraised.append(node)

    @property
    def notes(self) -> list[str]:
        """What the guard has to say."""
        return self._guard.notes if self._guard is not None else []

    def victim(self, blocks: int) -> tuple[Node, int]:
        """The leaf of the lowest value, back to where its stretch begins."""
        if self._visited_blocks > self._batch_blocks:
            self._appraise()
        self._pass_edges()
        while True:
            if not self._leaves:
                self._appraise()
            _, depth, _, node, worth, until_s = heapq.heappop(self._leaves)
            if self._current(node, worth, depth) and until_s > self.now_s:
                break
        if node.answer:
            return node, min(blocks, node.blocks)
        start = self._stretch_start(node, worth)
        return node, max(1, min(blocks, node.stop - max(node.start, start)))

    # -- inside ---------------------------------------------------------------------------------

    def _settle(self, node: Node, request: Request) -> None:
        """Appraise a prompt once, and give what comes out to all nodes of its path."""
        if request is not self._request or self._worth is None:
            visit = self._history.visit(request, self.now_s)
            self._request = request
            self._worth = Worth(self.now_s, visit.starts, [])
            self._visits.append((self._worth, visit))
            self._visited_blocks += visit.stops[-1]
            self._consult(request)
        for step in node.path():
            if step.note is request:
                step.note = self._worth

    def _appraise(self) -> None:
        """Let a batch of prompts be appraised, and queue their leaves."""
        found = self._appraiser.appraise([visit for _, visit in self._visits])
        for (worth, _), values in zip(self._visits, found, strict=True):
            worth.values = values
        nodes, self._unappraised = self._unappraised, []
        self._visits, self._visited_blocks = [], 0
        for node in nodes:
            if node.note.values and node.reclaimable:
                self._push(node)

    def _consult(self, request: Request) -> None:
        """Ask the guard for the mode, and queue all leaves again if that changes."""
        if self._guard is None:
            return
        found = self._found_blocks * self._block_tokens / request.hash_block_tokens
        if not self._guard.observe(request, found):
            return
        self._plain = self._guard.plain
        self._appraise()
        leaves = [entry for entry in self._leaves if self._current(entry[3], entry[4], entry[1])]
        self._leaves, self._changes = [], []
        for node in dict.fromkeys(entry[3] for entry in leaves):
            self._push(node)

    def _push(self, node: Node) -> None:
        worth: Worth = node.note
        self._pushed += 1  # breaks ties, so that nodes are never compared
        if self._plain:
            entry = (node.last_access_s, -node.stop, self._pushed, node, worth, math.inf)
            heapq.heappush(self._leaves, entry)
            return
        edge = 0
        while worth.used_s + self._edges_s[edge] <= self.now_s:
            edge += 1
        until_s = worth.used_s + self._edges_s[edge]
        value = 0.0 if node.answer else worth.values[self._stretch(node, worth)][edge]
        entry = (value, -node.stop, self._pushed, node, worth, until_s)
        heapq.heappush(self._leaves, entry)
        heapq.heappush(self._changes, (until_s, self._pushed, node, worth))

    def _pass_edges(self) -> None:
        """Queue every leaf again whose value has changed."""
        changes = self._changes
        while changes and changes[0][0] <= self.now_s:
            _, _, node, worth = heapq.heappop(changes)
            if node.note is worth and node.reclaimable:
                self._push(node)

    @staticmethod
    def _current(node: Node, worth: Worth, depth: int) -> bool:
        return node.note is worth and -node.stop == depth and node.reclaimable

    def _stretch(self, node: Node, worth: Worth) -> int:
        """Which stretch of the prompt a node's last block is in."""
        position = key_position(node, node.stop - 1, self._block_tokens)
        stretch = len(worth.starts) - 1
        while worth.starts[stretch] > position:
            stretch -= 1
        return stretch

    def _stretch_start(self, node: Node, worth: Worth) -> int:
        first = worth.starts[self._stretch(node, worth)]
        return first * node.hash_tokens // self._block_tokens
