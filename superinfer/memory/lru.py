"""`lru`: reclaim the blocks that were used longest ago."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mypy_extensions import mypyc_attr

from superinfer.heaps import FEWEST, sweep
from superinfer.memory.base import Fate, Timing
from superinfer.memory.index.node import Node
from superinfer.memory.index.prefix import PrefixIndex

if TYPE_CHECKING:
    from superinfer.draft import Draft
    from superinfer.memory.blocks.pool import BlockPool, HostPool
    from superinfer.sequence import Sequence

Preemption = Literal["recompute", "swap", "cheaper"]


def chosen_fate(preemption: Preemption, seq: Sequence, draft: Draft) -> Fate:
    """What the setting says; swapping needs room on the host."""
    if preemption == "recompute" or not draft.host_fits(seq):
        return "recompute"
    if preemption == "swap":
        return "swap"
    if draft.offload_loses(seq):
        draft.note("no_offload", seq)
        return "recompute"
    return "swap"


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class LruMemory:
    """Least recently used first; among blocks of one moment the deepest first.

    The order of vLLM v0.6.0 (`vllm/core/evictor_v1.py`), where all blocks of a request carry the
    time of its last step and ties go to the block with the most hashed tokens before it.
    """

    preemption: Preemption = "recompute"
    """Fate of a victim's cache; `cheaper` compares predicted seconds of both ways, what waits for
    the link included."""
    swap_in_timing: Timing = "before_step"
    name: str = field(default_factory=lambda: "lru", init=False)
    _heap: list[tuple[float, int, int, Node]] = field(default_factory=list, init=False)
    _pushed: int = field(default_factory=int, init=False)
    _most: int = field(default_factory=lambda: FEWEST, init=False)
    """With more entries than this, those of former uses are looked for."""

    def index(self, pool: BlockPool, host: HostPool, block_tokens: int) -> PrefixIndex:
        """A tree whose leaves go in this order."""
        return PrefixIndex(pool, block_tokens, self)

    def unused(self, node: Node) -> None:
        """Queue `node` by the time of its last use."""
        if len(self._heap) > self._most:
            self._most = sweep(self._heap, _may_hold)
        self._pushed += 1  # breaks ties, so that nodes are never compared
        heapq.heappush(self._heap, (node.last_access_s, -node.stop, self._pushed, node))

    def victim(self, blocks: int) -> tuple[Node, int]:
        """The oldest leaf, cut back no further than the next one of the same moment reaches."""
        last_access_s, depth, _, node = self._pop()
        count = min(blocks, node.blocks)
        rival = self._peek()
        if rival is not None and rival[0] == last_access_s:
            count = min(count, max(1, rival[1] - depth))
        return node, count

    def fate(self, seq: Sequence, draft: Draft) -> Fate:
        """As configured."""
        return chosen_fate(self.preemption, seq, draft)

    def _pop(self) -> tuple[float, int, int, Node]:
        entry = self._peek()
        if entry is None:
            raise AssertionError("nothing left to reclaim")
        return heapq.heappop(self._heap)

    def _peek(self) -> tuple[float, int, int, Node] | None:
        """The first entry that still describes its node."""
        heap = self._heap
        while heap:
            last_access_s, depth, _, node = heap[0]
            current = node.last_access_s == last_access_s and -node.stop == depth
            if current and node.reclaimable:
                return heap[0]
            heapq.heappop(heap)
        return None


def _may_hold(entry: tuple[float, int, int, Node]) -> bool:
    """False for former uses and nodes that are gone: while nothing has to go, each use of a node
    leaves an entry.
    """
    last_access_s, _, _, node = entry
    return node.parent is not None and node.last_access_s == last_access_s
