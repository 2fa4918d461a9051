"""What both modes have in common: three queues, and a walk over the running sequences."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, Literal

from superinfer.draft import Draft
from superinfer.schedulers.vllm.iteration import Iteration
from superinfer.schedulers.vllm.limits import Limits
from superinfer.sequence import RESIDENT, Sequence, State

_DECODING: Final = State.DECODING  # reading a member off its class is slow
_ENDED: Final = State.ENDED


def head(queue: deque[Sequence]) -> Sequence | None:
    """First of a queue; those that ended while they were queued are dropped on the way."""
    while queue:
        seq = queue[0]
        if seq.state is not _ENDED:
            return seq
        queue.popleft()
    return None


class Mode:
    """The queues of a scheduler, and how their sequences are served."""

    def __init__(self, limits: Limits, preemption: Literal["recompute", "swap"]) -> None:
        self.limits = limits
        self.preemption = preemption
        self.waiting: deque[Sequence] = deque()
        self.running: OrderedDict[Sequence, None] = OrderedDict()
        """Resident sequences in the order of service; the last is the first victim."""
        self.swapped: deque[Sequence] = deque()

    def ended(self, seq: Sequence) -> None:
        """Forget a sequence; in the waiting queues it is passed over when its turn comes."""
        self.running.pop(seq, None)

    # -- running sequences ----------------------------------------------------------------------

    def walk(self, draft: Draft) -> Iteration:
        """Serve the running sequences one by one, preempting from the tail when memory is short.

        A sequence needs one free block at its turn even when its last block still has room.
        """
        iteration = Iteration(self.limits.budget_tokens)
        order = list(self.running)
        turn, end = 0, len(order)
        while turn < end:
            seq = order[turn]
            tokens = self.next_tokens(seq, iteration.budget_tokens)
            if not tokens:
                break
            turn += 1
            while draft.available - iteration.growth < 1 and seq.state in RESIDENT:
                victim = order[end - 1]  # `seq` itself when nobody is left behind it
                end = max(end - 1, turn)
                self._preempt(draft, victim, iteration)
            if seq.state in RESIDENT:
                self._serve(draft, seq, tokens, iteration)
        iteration.skipped = order[turn:end]
        self.running = OrderedDict.fromkeys(
            iteration.skipped + iteration.served + iteration.continued
        )
        return iteration

    def next_tokens(self, seq: Sequence, budget: int) -> int:
        """Tokens that a sequence would get: one for a decode, a chunk for a prefill."""
        if seq.state is _DECODING:
            return min(1, budget)
        wanted = seq.prefill_tokens - seq.computed_tokens
        if wanted <= budget:
            return wanted
        return budget // self.limits.chunk_unit_tokens * self.limits.chunk_unit_tokens

    def _serve(self, draft: Draft, seq: Sequence, tokens: int, iteration: Iteration) -> None:
        """Give a running sequence its tokens, out of the budget of the iteration."""
        if seq.state is State.PREFILLING:
            self.go_on(draft, seq, tokens, iteration)
            return
        iteration.budget_tokens -= 1
        iteration.decodes += 1
        iteration.growth += draft.batch.grows(seq)
        iteration.served.append(seq)

    def go_on(self, draft: Draft, seq: Sequence, tokens: int, iteration: Iteration) -> None:
        """Another chunk of a prompt under way."""
        draft.prefill(seq, tokens)
        iteration.budget_tokens -= tokens
        iteration.continued.append(seq)
        if seq.computed_tokens + tokens < seq.prefill_tokens:
            iteration.unfinished.append(seq)

    def decode(self, draft: Draft, steady: bool) -> None:
        """A step, or a slice of them while nothing changes: before each, every running sequence
        must find a free block at its turn, hence the spare one.
        """
        if not (steady and draft.decode(spare_blocks=1)):
            draft.decode(1)

    # -- out of memory, and back ----------------------------------------------------------------

    def _preempt(self, draft: Draft, victim: Sequence, iteration: Iteration) -> None:
        iteration.disturbed = True
        self.running.pop(victim, None)
        if self._starts_over_for_ever(draft, victim):
            draft.fail(victim, "prefill_fills_memory")
            return
        draft.preempt(victim, self.preemption)
        if victim.state is State.WAITING:
            iteration.preempted.append(victim)
        elif victim.state is State.SWAPPED:
            self.swapped.append(victim)

    def _starts_over_for_ever(self, draft: Draft, victim: Sequence) -> bool:
        """A prompt of several chunks that takes all blocks leaves no spare one for its second."""
        return (
            victim.state is State.PREFILLING
            and victim.prefill_tokens > self.limits.budget_tokens
            and draft.blocks_for(victim.prefill_tokens) == draft.pool.total - draft.pool.lent
        )

    def swap_in(self, draft: Draft, iteration: Iteration) -> None:
        """Bring swapped sequences back in order, each with a spare block for its next token."""
        while (seq := head(self.swapped)) is not None:
            if len(self.running) - len(iteration.skipped) >= self.limits.max_num_seqs:
                break
            tokens = max(1, seq.prefill_tokens - seq.computed_tokens)
            if rule := self._never_back(draft, seq, tokens):
                self.swapped.popleft()
                draft.reject(seq, rule)
                continue
            keep_free = self.limits.keep_free_blocks + iteration.growth + 1
            if tokens > iteration.budget_tokens:
                break
            if not draft.try_swap_in(seq, keep_free=keep_free, timing="before_step"):
                break
            self.swapped.popleft()
            self.running[seq] = None
            self._serve(draft, seq, tokens, iteration)

    def _never_back(self, draft: Draft, seq: Sequence, tokens: int) -> str | None:
        """The rule by which a swapped sequence can never return, if there is one."""
        limits = self.limits
        blocks = draft.blocks_for(max(seq.computed_tokens, seq.prefill_tokens)) + 1
        if blocks > draft.pool.size:
            return "sequence_exceeds_kv_capacity"
        # The real engine waits for ever in these two cases.
        if blocks + limits.keep_free_blocks > draft.pool.size or tokens > limits.budget_tokens:
            return "swap_in_never_fits"
        return None

    # -- waiting requests -----------------------------------------------------------------------

    def next_waiting(self, draft: Draft) -> Sequence | None:
        """The head of the queue; who can never run is turned away, by v0.6.0's two rules."""
        while (seq := head(self.waiting)) is not None:
            if seq.prefill_tokens <= self.limits.admitted_tokens:
                return seq
            self.waiting.popleft()
            too_long = seq.prefill_tokens > self.limits.prompt_tokens
            draft.reject(seq, "prompt_too_long" if too_long else "prompt_exceeds_kv_capacity")
        return None

    def admit(self, draft: Draft, seq: Sequence, keep_free: int) -> bool:
        """Take the head off the queue, if its whole prompt finds its blocks."""
        if not draft.try_admit(seq, keep_free=keep_free, whole_need=True, charge_cached=True):
            return False
        self.waiting.popleft()
        return True
