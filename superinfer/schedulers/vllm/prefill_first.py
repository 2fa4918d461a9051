"""The mode without chunks: a step computes whole prompts, or else every decode."""

from __future__ import annotations

from superinfer.draft import Draft
from superinfer.schedulers.vllm.iteration import Iteration
from superinfer.schedulers.vllm.mode import Mode, head


class PrefillFirst(Mode):
    """Prompts that fit go before the decodes."""

    def plan(self, draft: Draft) -> None:
        """One iteration, or a slice of identical ones."""
        if head(self.swapped) is None and self._admit_whole(draft):
            return
        growth = draft.batch.next_growth()
        roomy = growth < draft.available
        if roomy:
            iteration = Iteration(self.limits.budget_tokens, growth, draft.batch.size)
        else:
            iteration = self.walk(draft)
        if self.swapped and not iteration.disturbed:
            self.swap_in(draft, iteration)
        self.waiting.extendleft(iteration.preempted)
        if draft.batch.size:
            self.decode(draft, steady=roomy and not draft.before_step)

    def _admit_whole(self, draft: Draft) -> bool:
        """Prefill from the head of the queue, whole prompts only, strictly in order."""
        limits = self.limits
        budget = limits.budget_tokens
        while (seq := self.next_waiting(draft)) is not None:
            tokens = seq.prefill_tokens
            if tokens > budget or len(self.running) >= limits.max_num_seqs:
                break
            if not self.admit(draft, seq, limits.keep_free_blocks):
                break
            self.running[seq] = None
            draft.prefill(seq, tokens)
            budget -= tokens
        return bool(draft.chunks)
