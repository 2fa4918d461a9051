"""An order by values that change while a block waits: what two policies have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from mypy_extensions import mypyc_attr

from superinfer.memory.index.node import Node
from superinfer.memory.orders.base import REMEMBERED, Surroundings
from superinfer.memory.orders.guard import Guard
from superinfer.memory.orders.pins import Pins
from superinfer.memory.orders.queue import ValueQueue
from superinfer.memory.orders.trial import Trial
from superinfer.memory.orders.worth import Appraisal, Pricing, Worth, equal_prices
from superinfer.memory.reuse.features import Visit
from superinfer.memory.reuse.history import History
from superinfer.request import Request

BATCH_SHARE: Final = 0.02
"""Prompts wait to be appraised together until they have this share of the capacity."""
MOST_WAITING: Final = 4096
"""Prompts wait no longer than this many, though nothing has to go: each keeps what the model is to
be asked about it."""


class Appraiser(Protocol):
    """Says what blocks are worth."""

    @property
    def edges_s(self) -> Sequence[float]:
        """Ends of the bins of age."""
        ...

    def appraise(self, visits: Sequence[Visit]) -> list[Appraisal]:
        """Of prompts that were just used."""
        ...


class DeviceQueue(ValueQueue):
    """Leaves of the device that are not pinned."""

    def __init__(
        self,
        edges_s: Sequence[float],
        block_tokens: int,
        pricing: Pricing,
        pins: Pins | None,
    ) -> None:
        super().__init__(edges_s, block_tokens, pricing)
        self._pins = pins

    def free(self, node: Node) -> bool:
        """Whether a node may go before all pinned ones."""
        return node.reclaimable and (self._pins is None or node not in self._pins)


@mypyc_attr(allow_interpreted_subclasses=True)
class ValuedOrder:
    """The lowest value first (`ValueQueue`); pinned leaves when no other is left."""

    whole_edges = True

    def __init__(
        self,
        surroundings: Surroundings,
        appraiser: Appraiser,
        guard: Guard | None = None,
        pricing: Pricing = equal_prices,
        pins: Pins | None = None,
    ) -> None:
        self._block_tokens = surroundings.block_tokens
        self._appraiser, self.guard, self._pins = appraiser, guard, pins
        self._pricing = pricing
        self._trials: dict[int, Trial] = {}
        """What the guard learns from while blocks go by age, by the size of content ids."""
        self._visits: list[Worth] = []
        """Prompts that wait for a batch."""
        self._visited_blocks = 0.0
        self._batch_blocks = BATCH_SHARE * surroundings.capacity_blocks
        self._unappraised: list[Node] = []
        """Leaves of these prompts; they stay until the batch is appraised."""
        self._history = History()
        self._queue = DeviceQueue(appraiser.edges_s, self._block_tokens, pricing, pins)
        self._queue.plain = guard is not None and guard.plain
        self._cut: Node | None = None
        """The leaf that lost blocks last."""
        self._worth: Worth | None = None
        """Of the latest request that was new."""
        self.uses = 0
        """Requests so far."""
        self._young: dict[int, Worth] = {}
        self._old: dict[int, Worth] = {}
        self.now_s = 0.0

    def retain(self, node: Node, request: Request) -> None:
        """A request counts as a use when it comes, and its prompt is appraised soon after."""
        worth = self._use(request)
        if node.note is not None and node.note is not worth:
            worth.found_blocks += node.blocks
        node.note = worth
        if node is self._cut:
            self._cut = None
        if self._pins is not None:
            self._pins.drop(node)

    def unused(self, node: Node) -> None:
        """Queue a leaf by its present value, or leave it until there is one."""
        self.now_s = max(self.now_s, node.last_access_s)
        worth: Worth = node.note
        if worth.appraisal is not None or self._queue.plain:
            self._push(node)
        else:
            self._unappraised.append(node)

    @property
    def edges_s(self) -> Sequence[float]:
        """Ends of the bins of age."""
        return self._appraiser.edges_s

    @property
    def plain(self) -> bool:
        """True while leaves go by age alone."""
        return self._queue.plain

    @property
    def notes(self) -> list[str]:
        """What the guard has to say."""
        return self.guard.notes if self.guard is not None else []

    def victim(self, blocks: int) -> tuple[Node, int]:
        """The leaf of the lowest value, back to where its stretch begins."""
        if self._visited_blocks > self._batch_blocks:
            self.appraise()
        self._pass_time()
        found = self._queue.pop(blocks, self.now_s)
        if found is None:
            self.appraise()
            found = self._queue.pop(blocks, self.now_s) or self._pinned_victim(blocks)
        self._cut = found[0]
        return found

    def appraise(self) -> None:
        """Let a batch of prompts be appraised, and queue their leaves."""
        worths, nodes = self._visits, self._unappraised
        self._visits, self._unappraised, self._visited_blocks = [], [], 0.0
        if worths:
            found = self._appraiser.appraise([worth.visit for worth in worths])
            for worth, appraisal in zip(worths, found, strict=True):
                worth.appraisal = appraisal
        for node in nodes:
            worth = node.note
            if worth.appraisal is not None and node.reclaimable:
                self._push(node)

    def chance(self, node: Node, life_s: float) -> float:
        """How likely the last block of a leaf is used in the next `life_s` seconds."""
        return self._queue.chance(node, self.now_s, life_s)

    def switch(self, plain: bool) -> None:
        """Go by age alone from now on, or by value."""
        self.appraise()
        queue = self._queue
        nodes = queue.clear() + (self._pins.clear() if self._pins is not None else [])
        queue.plain = plain
        for node in nodes:
            if node.reclaimable:
                self._push(node)

    # -- inside ---------------------------------------------------------------------------------

    def _use(self, request: Request) -> Worth:
        """What the use by this request is worth. One that goes on after a pause uses its prompt
        once.
        """
        worth = self._worth
        if worth is not None and worth.request is request:
            return worth
        known = self._young.get(id(request)) or self._old.get(id(request))
        if known is not None:
            return known
        if worth is not None:
            self._consult(worth)
        if len(self._visits) >= MOST_WAITING:
            self.appraise()
        self.now_s = max(self.now_s, request.arrival_s)
        visit = self._history.visit(request, self.now_s)
        self._worth = worth = Worth(request, self.now_s, visit)
        self.uses += 1
        self._visits.append(worth)
        self._visited_blocks += visit.stops[-1] * request.hash_block_tokens / self._block_tokens
        self._young[id(request)] = worth
        if len(self._young) > REMEMBERED:
            self._old, self._young = self._young, {}
        return worth

    def _consult(self, worth: Worth) -> None:
        """Ask the guard for the mode, now that all is known of what a request found."""
        guard, request = self.guard, worth.request
        if guard is None:
            return
        found: float | None = worth.found_blocks * self._block_tokens / request.hash_block_tokens
        if guard.plain:
            found = self._try(guard, worth)
        if guard.observe(request, found):
            self._trials = {}
            self.switch(guard.plain)

    def _try(self, guard: Guard, worth: Worth) -> float | None:
        """What a request would have found by value; None while that cannot be told."""
        request = worth.request
        tokens = request.hash_block_tokens
        room_blocks, trial = guard.room(tokens), self._trials.get(tokens)
        if trial is None:
            trial = Trial(self.edges_s, self._pricing, self.appraise, tokens, room_blocks)
            self._trials[tokens] = trial
        hits = trial.serve(worth, room_blocks)
        return guard.findable(request, hits) if trial.full else None

    def _push(self, node: Node) -> None:
        """Queue a leaf, or pin it; what is left of one that goes is not pinned again."""
        queue, pins, now = self._queue, self._pins, self.now_s
        if pins is None or queue.plain or node is self._cut or node.answer:
            queue.push(node, now)
            return
        pins.drop(node)
        pinned, lost = pins.offer(node, queue.value(node, now), now)
        for other in lost if pinned else [*lost, node]:
            queue.push(other, now)

    def _pass_time(self) -> None:
        """Queue every leaf again whose pin has lapsed or whose value has changed."""
        queue, pins, now = self._queue, self._pins, self.now_s
        if pins is not None and pins.due(now):
            for node in pins.lapsed(now):
                if node.reclaimable:
                    queue.push(node, now)
        queue.follow(now)

    def _pinned_victim(self, blocks: int) -> tuple[Node, int]:
        """The lowest of the pinned leaves."""
        node = self._pins.pop() if self._pins is not None else None
        assert node is not None, "nothing left to reclaim"
        worth: Worth = node.note
        return node, max(1, min(blocks, node.stop - worth.first_block(node, self._block_tokens)))
