"""The learned order on a cache that is not there: what it would hit while blocks go by age."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from superinfer.memory.index.node import Node
from superinfer.memory.orders.queue import ValueQueue
from superinfer.memory.orders.worth import Pricing, Worth
from superinfer.memory.replay import CacheReplay
from superinfer.request import Request


class TrialQueue(ValueQueue):
    """Leaves of the tree of a trial."""

    def free(self, node: Node) -> bool:
        """Whether a node may go."""
        return node.reclaimable


class TrialOrder:
    """The lowest value first, by what others found prompts to be worth. Blocks are content ids."""

    whole_edges = True

    def __init__(
        self,
        edges_s: Sequence[float],
        block_tokens: int,
        pricing: Pricing,
        appraise: Callable[[], None],
    ) -> None:
        self._queue = TrialQueue(edges_s, block_tokens, pricing)
        self._appraise = appraise
        self._unappraised: list[Node] = []
        self.worth: Worth | None = None
        """Of the prompt at hand."""

    def retain(self, node: Node, request: Request) -> None:
        """A use by the prompt at hand."""
        node.note = self.worth

    def unused(self, node: Node) -> None:
        """Queue a leaf, or leave it until its prompt is appraised."""
        if node.note.appraisal is not None:
            self._queue.push(node, self._now_s)
        else:
            self._unappraised.append(node)

    def victim(self, blocks: int) -> tuple[Node, int]:
        """The leaf of the lowest value, back to where its stretch begins."""
        if self._unappraised and self._unappraised[0].note.appraisal is not None:
            self._enter()
        found = self._queue.pop(blocks, self._now_s)
        if found is None:
            self._appraise()
            self._enter()
            found = self._queue.pop(blocks, self._now_s)
        assert found is not None, "nothing left to reclaim"
        return found

    # -- inside ---------------------------------------------------------------------------------

    @property
    def _now_s(self) -> float:
        assert self.worth is not None, "told before a prompt is served"
        return self.worth.used_s

    def _enter(self) -> None:
        """Queue the leaves whose prompts were appraised meanwhile."""
        nodes, self._unappraised = self._unappraised, []
        for node in nodes:
            if node.reclaimable:
                self.unused(node)


class Trial:
    """A cache that holds no blocks, only their ids, in the learned order."""

    def __init__(
        self,
        edges_s: Sequence[float],
        pricing: Pricing,
        appraise: Callable[[], None],
        block_tokens: int,
        room_blocks: int,
    ) -> None:
        """For content ids of so many tokens, as many as there is room for."""
        self._order = TrialOrder(edges_s, block_tokens, pricing, appraise)
        self._replay = CacheReplay(room_blocks, block_tokens, self._order)
        self.full = False
        """True once an id had to go: until then it had no order to choose, nor time to fill."""

    def serve(self, worth: Worth, room_blocks: int) -> int:
        """Look up and insert a prompt; returns the leading ids that were there."""
        self._order.worth = worth
        self._replay.resize(room_blocks)
        hits = self._replay.serve(worth.request)
        self.full = self._replay.evicts
        return hits
