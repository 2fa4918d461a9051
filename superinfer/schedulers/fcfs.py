"""`fcfs`: first come, first served with chunked prefill beside the decodes (Sarathi-Serve).

Source: arXiv 2403.02310, section 4 (stall-free batches): every step runs all decodes and fills the
rest of a token budget with prefill chunks, so no decode waits for a prompt. The paper uses 512
tokens for a strict and 2048 for a relaxed latency target. Blocks of a whole prompt are taken at
admission; when the decodes need blocks that are not there, the latest arrival gives way, and the
memory policy decides whether its cache is dropped or moved to the host.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Final

from mypy_extensions import mypyc_attr

from superinfer.costs.capacity import LargestStep
from superinfer.draft import MAX_STEPS, Draft
from superinfer.schedulers.base import Machine
from superinfer.schedulers.parts import RankedList, RankedQueue, check_limits, step_within
from superinfer.sequence import Sequence, State

_QUEUED: Final = (State.WAITING, State.SWAPPED, State.PARKED)


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class FcfsScheduler:
    """Chunked prefill in order of arrival."""

    max_num_batched_tokens: int = 2048
    """Token budget of a step, decodes included."""
    max_num_seqs: int = 256
    watermark: float = 0.01
    """Share of the blocks that admission leaves free."""
    name: str = field(default_factory=lambda: "fcfs", init=False)
    block_tokens: int = field(default_factory=lambda: 32, init=False)
    copies_per_block: int = field(default_factory=lambda: 1, init=False)

    waiting: RankedQueue = field(init=False)
    swapped: RankedQueue = field(init=False)
    running: RankedList = field(default_factory=RankedList, init=False)
    """Resident sequences and those on their way in."""
    prefilling: RankedList = field(default_factory=RankedList, init=False)
    machine: Machine = field(init=False)
    _keep_free: int = field(default_factory=int, init=False)

    def __post_init__(self) -> None:
        self.waiting = RankedQueue(State.WAITING)
        self.swapped = RankedQueue(State.SWAPPED)

    # -- protocol -------------------------------------------------------------------------------

    def largest_step(self, max_model_len: int, prefix_caching: bool) -> LargestStep:
        """A whole budget."""
        return step_within(self.max_num_batched_tokens, self.max_num_seqs)

    def bind(self, machine: Machine) -> None:
        """Learn the machine."""
        check_limits(self.max_num_seqs, self.max_num_batched_tokens, self.watermark)
        self.machine = machine
        self._keep_free = int(self.watermark * machine.total_blocks)

    def rank(self, seq: Sequence) -> tuple[float, ...]:
        """Order of service, lowest first: here by arrival."""
        return (seq.request.arrival_s, seq.request.index)

    def submit(self, seq: Sequence, now: float) -> None:
        """Queue by rank."""
        seq.rank = self.rank(seq)
        self.waiting.push(seq)

    def plan(self, draft: Draft, now: float) -> None:
        """Every decode, then prefill chunks in order until the budget is spent."""
        disturbed = self._make_room_for_growth(draft)
        if self.prefilling or not disturbed:
            self._fill_with_prefills(draft, admit=not disturbed)
        if draft.batch.size:
            steady = not (disturbed or draft.chunks or draft.changes)
            draft.decode(self.steps(draft) if steady else 1, until=self.until_s(now))

    def swapped_out(self, seq: Sequence) -> None:
        """It may come back now."""
        self.swapped.push(seq)

    def resumed(self, seq: Sequence) -> None:
        """Its place among the running ones was kept."""
        if seq.state is State.PREFILLING:
            self.prefilling.add(seq)

    def ended(self, seq: Sequence) -> None:
        """Forget it; the queues pass it over by its state."""
        self._remove(seq)

    def next_wakeup(self, now: float) -> float | None:
        """Nothing here depends on time."""
        return None

    # -- what a variant changes -----------------------------------------------------------------

    def prefill_budget(self, draft: Draft) -> int:
        """Prefill tokens that this step may take."""
        return self.max_num_batched_tokens - draft.batch.size

    def decode_tokens(self) -> int:
        """Of the prefill tokens, what a stream takes that comes back in this step."""
        return 1

    def clear_the_way(self, draft: Draft, seq: Sequence) -> bool:
        """Make room for a head of the queue that does not fit; True if something was preempted."""
        return False

    def steps(self, draft: Draft) -> int:
        """Steps for which this decision stands if nothing happens and memory lasts."""
        return MAX_STEPS

    def until_s(self, now: float) -> float:
        """When this decision should be thought over though nothing has happened."""
        return inf

    # -- inside ---------------------------------------------------------------------------------

    def _make_room_for_growth(self, draft: Draft) -> bool:
        """Preempt the latest until every decode finds its next block."""
        disturbed = False
        while draft.available < draft.batch.next_growth():
            self.preempt(draft, self._victim())
            disturbed = True
        return disturbed

    def _victim(self) -> Sequence:
        """The last in rank whose copy is not under way."""
        return next(seq for seq in reversed(self.running) if seq.state is not State.MOVING_IN)

    def preempt(self, draft: Draft, victim: Sequence) -> None:
        """Take a running sequence off the device; the memory policy chooses how."""
        self._remove(victim)
        draft.preempt(victim)
        self.queue_up(victim)

    def queue_up(self, seq: Sequence) -> None:
        """Queue a sequence that is off the device; one that is still copied comes by itself."""
        if seq.state in _QUEUED:
            self.queue_of(seq).push(seq)

    def queue_of(self, seq: Sequence) -> RankedQueue:
        """Where a sequence waits that holds no blocks."""
        return self.waiting if seq.state is State.WAITING else self.swapped

    def rank_again(self, seq: Sequence) -> None:
        """Move a sequence to the place that its present rank gives it."""
        resident, prefilling = self.running.discard(seq), self.prefilling.discard(seq)
        seq.rank = self.rank(seq)
        if resident:
            self.running.add(seq)
        if prefilling:
            self.prefilling.add(seq)
        self.queue_up(seq)

    def _fill_with_prefills(self, draft: Draft, admit: bool) -> None:
        """Chunks for unfinished prefills and new requests, lowest rank first."""
        budget = self.prefill_budget(draft)
        unfinished = iter(list(self.prefilling))
        current = next(unfinished, None)
        while budget > 0:
            while current is not None and current.state is not State.PREFILLING:
                current = next(unfinished, None)  # preempted in this very plan, maybe to return
            head = self._head() if admit else None
            if current is not None and (head is None or current.rank < head.rank):
                budget -= self._prefill(draft, current, budget)
                current = next(unfinished, None)
            elif head is None:
                break
            elif not self._take_in(draft, head):
                admit = False
            elif head.state is State.PREFILLING:
                budget -= self._prefill(draft, head, budget)
            elif head.state is State.DECODING:
                budget -= self.decode_tokens()

    def _prefill(self, draft: Draft, seq: Sequence, budget: int) -> int:
        """A chunk of at most `budget` tokens; returns its tokens."""
        left = seq.prefill_tokens - seq.computed_tokens
        tokens = min(left, budget)
        draft.prefill(seq, tokens)
        if tokens == left:
            self.prefilling.discard(seq)
        return tokens

    def _head(self) -> Sequence | None:
        """The next to come in: from the host or new, whichever ranks first."""
        new, back = self.waiting.head(), self.swapped.head()
        if new is None or back is None:
            return new or back
        return back if back.rank < new.rank else new

    def _take_in(self, draft: Draft, seq: Sequence) -> bool:
        """Admit, resume or reject the head of the queues; False if it has to wait."""
        queue = self.queue_of(seq)
        rule = self._hopeless(draft, seq)
        if rule:
            queue.pop()
            draft.reject(seq, rule)
            return True
        if len(self.running) >= self.max_num_seqs:
            return False
        if not self._fit(draft, seq) and not (
            self.clear_the_way(draft, seq) and self._fit(draft, seq)
        ):
            return False
        queue.pop()
        self._add(seq)
        return True

    def _fit(self, draft: Draft, seq: Sequence) -> bool:
        """Try to give it blocks, leaving the watermark and the decodes' next blocks alone."""
        keep_free = self._keep_free + draft.batch.next_growth()
        if seq.state is State.WAITING:
            return draft.try_admit(seq, keep_free=keep_free)
        return draft.try_swap_in(seq, keep_free=keep_free + bool(self.running))

    def _hopeless(self, draft: Draft, seq: Sequence) -> str | None:
        """The rule by which a request can never run, if there is one."""
        tokens = max(seq.prefill_tokens, seq.computed_tokens + 1)
        if seq.prefill_tokens > self.machine.max_model_len:
            return "prompt_too_long"
        if draft.blocks_for(tokens) + self._keep_free > draft.pool.size:
            return "exceeds_kv_capacity"
        return None

    def _add(self, seq: Sequence) -> None:
        self.running.add(seq)
        if seq.state is State.PREFILLING:
            self.prefilling.add(seq)

    def _remove(self, seq: Sequence) -> bool:
        self.prefilling.discard(seq)
        return self.running.discard(seq)
