"""`radix`: reclaim whole leaves of the prefix tree, that which was looked up longest ago first.

Source: sgl-project/sglang v0.4.6 (commit 84022c0e5), `mem_cache/radix_cache.py` (`evict`): a heap
of unlocked leaves by the time of their last access; a leaf goes as a whole, however little is
wanted, and its parent becomes a leaf when the last child has gone. A look-up and an insertion count
as a use of the whole path (`SglangScheduler` tells of look-ups by `Draft.find_prefix`).

Left out: an eviction there asks for as many tokens as the step takes, also when some are free; here
it ends as soon as the step fits. A retraction counts as a use here.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

from superinfer.memory.base import Fate, Timing
from superinfer.memory.index.node import Node
from superinfer.memory.index.prefix import PrefixIndex

if TYPE_CHECKING:
    from superinfer.draft import Draft
    from superinfer.memory.blocks.pool import BlockPool, HostPool
    from superinfer.sequence import Sequence


@mypyc_attr(allow_interpreted_subclasses=True)
class OldestFirst:
    """Leaves by the time of their last use; of one moment, by turn.

    A parent that becomes a leaf takes the turn of the child that went, for it was used before
    whatever else was used at that moment after the child. Each leaf has one entry, which a later
    use does not move: when its turn comes it goes back to where it belongs.
    """

    __slots__ = ("_entered", "_heap", "_popped", "_queued", "_reclaimable", "_turns")

    def __init__(self, reclaimable: Callable[[Node], bool]) -> None:
        self._reclaimable = reclaimable
        self._heap: list[tuple[float, int, int, Node]] = []
        self._queued: dict[Node, int] = {}
        """The turns of the leaves in the heap, as of their latest use."""
        self._turns = self._entered = 0
        self._popped = (-1.0, 0)
        """Time and turn of the latest leaf that went."""

    def push(self, node: Node) -> None:
        """Queue a leaf."""
        time_s, turn = self._popped
        if node.last_access_s != time_s:
            self._turns += 1
            turn = self._turns
        queued = node in self._queued
        self._queued[node] = turn
        if not queued:
            self._enter(node)

    def pop(self) -> Node | None:
        """Take the first leaf."""
        while self._heap:
            last_access_s, turn, _, node = heapq.heappop(self._heap)
            if not self._reclaimable(node):
                del self._queued[node]
            elif node.last_access_s == last_access_s:
                del self._queued[node]
                self._popped = (last_access_s, turn)
                return node
            else:
                self._enter(node)
        return None

    def _enter(self, node: Node) -> None:
        self._entered += 1  # breaks ties, so that nodes are never compared
        entry = (node.last_access_s, self._queued[node], self._entered, node)
        heapq.heappush(self._heap, entry)


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class RadixMemory:
    """Oldest leaf first, leaf by leaf; victims of a retraction are computed again."""

    name: str = field(default_factory=lambda: "radix", init=False)
    swap_in_timing: Timing = field(default_factory=lambda: "before_step", init=False)
    whole_edges: bool = field(default_factory=lambda: True, init=False)
    _leaves: OldestFirst = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._leaves = OldestFirst(attrgetter("reclaimable"))

    def index(self, pool: BlockPool, host: HostPool, block_tokens: int) -> PrefixIndex:
        """A tree whose leaves go in this order."""
        return PrefixIndex(pool, block_tokens, self)

    def unused(self, node: Node) -> None:
        """Queue `node` by the time of its last use."""
        self._leaves.push(node)

    def victim(self, blocks: int) -> tuple[Node, int]:
        """The oldest leaf, all of it."""
        node = self._leaves.pop()
        if node is None:
            raise AssertionError("nothing left to reclaim")
        return node, node.blocks

    def fate(self, seq: Sequence, draft: Draft) -> Fate:
        """SGLang has no swapping of requests."""
        return "recompute"
