"""`radix`: reclaim whole leaves of the prefix tree, the one that was looked up longest ago first.

Source: sgl-project/sglang v0.4.6 (commit 84022c0e5), `mem_cache/radix_cache.py` (`evict`): a heap of
unlocked leaves by the time of their last access; a leaf goes as a whole, however little is wanted,
and its parent becomes a leaf when the last child has gone. A look-up and an insertion count as a use
of the whole path (`SglangScheduler` tells of look-ups by `Draft.find_prefix`).

Left out: an eviction there asks for as many tokens as the step takes, also when some are free; here
it ends as soon as the step fits. A retraction counts as a use here.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from superinfer.memory.base import Fate, Timing
from superinfer.memory.prefix import Node

if TYPE_CHECKING:
    from superinfer.draft import Draft
    from superinfer.sequence import Sequence


@dataclass(slots=True)
class RadixMemory:
    """Oldest leaf first, leaf by leaf; victims of a retraction are computed again."""

    name: str = field(default="radix", init=False)
    swap_in_timing: Timing = field(default="before_step", init=False)
    _heap: list[tuple[float, int, int, Node]] = field(default_factory=list, init=False)
    _pushed: int = field(default=0, init=False)
    _popped: tuple[float, int] = field(default=(-1.0, 0), init=False)
    """Time and turn of the latest victim."""

    def unused(self, node: Node) -> None:
        """Queue `node` by the time of its last use; of one moment, by turn.

        A parent that becomes a leaf takes the turn of the child that went, for it was used before
        whatever else was used at that moment after the child.
        """
        self._pushed += 1  # breaks ties, so that nodes are never compared
        time_s, turn = self._popped
        if node.last_access_s != time_s:
            turn = self._pushed
        heapq.heappush(self._heap, (node.last_access_s, turn, self._pushed, node))

    def victim(self, blocks: int) -> tuple[Node, int]:
        """The oldest leaf, all of it."""
        heap = self._heap
        while heap:
            last_access_s, turn, _, node = heapq.heappop(heap)
            if node.reclaimable and node.last_access_s == last_access_s:
                self._popped = (last_access_s, turn)
                return node, node.blocks
        raise AssertionError("nothing left to reclaim")

    def fate(self, seq: Sequence, draft: Draft) -> Fate:
        """SGLang has no swapping of requests."""
        return "recompute"
