"""One pass over the running requests, one by one, preempting where memory is short."""

from __future__ import annotations

from typing import Final

from superinfer.draft import Draft
from superinfer.schedulers.vllm_v1.step import Step, left_tokens
from superinfer.sequence import Sequence, State

_PREFILLING: Final = State.PREFILLING  # reading a member off its class is slow


class Walk:
    """Over `order`, which loses its victims on the way."""

    def __init__(
        self, draft: Draft, order: list[Sequence], budget_tokens: int, by_priority: bool
    ) -> None:
        self._draft = draft
        self._order = order
        self._by_priority = by_priority
        self._next = 0
        """Place of the next one in the order."""
        self.step = Step(budget_tokens)

    def run(self, longest_chunk: int) -> Step:
        """Serve them while the budget lasts."""
        step = self.step
        while self._next < len(self._order) and step.budget_tokens > 0:
            seq = self._order[self._next]
            self._next += 1
            if seq.state is State.PARKED:
                continue
            tokens = 1
            if seq.state is _PREFILLING:
                tokens = min(left_tokens(seq), longest_chunk, step.budget_tokens)
            if self._make_room(seq, tokens):
                self._serve(seq, tokens)
        return step

    def rest(self) -> list[Sequence]:
        """Those for whom no token was left."""
        return self._order[self._next :]

    # -- inside ---------------------------------------------------------------------------------

    def _serve(self, seq: Sequence, tokens: int) -> None:
        self.step.budget_tokens -= tokens
        self.step.scheduled[seq] = tokens
        if seq.state is _PREFILLING:
            self._draft.prefill(seq, tokens)
        else:
            self.step.growth += self._draft.grows(seq)

    def _make_room(self, seq: Sequence, tokens: int) -> bool:
        """Preempt until `seq` finds its blocks; False if it gave way itself."""
        draft, step = self._draft, self.step
        if seq.state is _PREFILLING:
            need = draft.chunk_blocks(seq, tokens)
        else:
            need = int(draft.grows(seq))
        while need > draft.available - step.growth:
            victim = self._take_victim()
            self._preempt(victim)
            if victim is seq:
                return False
        return True

    def _take_victim(self) -> Sequence:
        """The last in order; by priority the one with the largest priority and arrival."""
        order = self._order
        place = len(order) - 1
        if self._by_priority:
            place = order.index(max(order, key=_priority))
        self._next -= place < self._next
        return order.pop(place)

    def _preempt(self, victim: Sequence) -> None:
        """Take a request's blocks away, also if this step has served it already."""
        draft, step = self._draft, self.step
        draft.settle(victim, step.growth)  # empty blocks that it gives back come too late for these
        tokens = step.scheduled.pop(victim, 0)
        step.budget_tokens += tokens
        if tokens and victim.state is _PREFILLING:
            draft.withdraw(victim)
        elif tokens:
            step.growth -= draft.grows(victim)
        draft.preempt(victim, "recompute", scheduled_tokens=tokens)
        step.preempted.append(victim)


def _priority(seq: Sequence) -> tuple[float, ...]:
    """Priority and arrival; of equal ones `max` takes the first in line."""
    return seq.rank[:2]
