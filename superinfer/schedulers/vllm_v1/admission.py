"""The waiting requests: who comes in, from the head of the queue and strictly in order."""

from __future__ import annotations

from itertools import chain

from superinfer.draft import Draft
from superinfer.schedulers.vllm_v1.limits import Limits
from superinfer.schedulers.vllm_v1.queue import WaitingQueue
from superinfer.schedulers.vllm_v1.running import Running
from superinfer.schedulers.vllm_v1.step import Step, left_tokens
from superinfer.sequence import Sequence, State


class Admission:
    """Lets requests in among the running ones."""

    def __init__(self, limits: Limits, running: Running, by_priority: bool) -> None:
        self.limits = limits
        self.running = running
        self.waiting = WaitingQueue(by_priority)
        self.loading = WaitingQueue(by_priority)
        """Those that have not run since their prefix was loaded, or is being loaded."""

    def longest_chunk(self) -> int:
        """Tokens of a chunk, by how many requests there are."""
        requests = len(self.running.members) + len(self.waiting) + len(self.loading)
        return self.limits.longest_chunk(requests)

    def discard(self, seq: Sequence) -> None:
        """Forget a request that ended while it was queued."""
        self.waiting.discard(seq)
        self.loading.discard(seq)

    def admit(self, draft: Draft, step: Step) -> None:
        """Let in while tokens and blocks last; those whose prefix was loaded come first, and who
        waits for copies is passed over.
        """
        if self.loading and not self._admit_loaded(draft, step):
            return
        longest, queue = self.longest_chunk(), self.waiting
        while self._has_place(step) and (seq := queue.head()) is not None:
            if rule := self.limits.hopeless(draft, seq):
                queue.discard(seq)
                draft.reject(seq, rule)
                continue
            on_host = draft.host_prefix(seq)
            if on_host is None:
                queue.pass_over(seq)
            elif on_host:
                if not self._try_load(draft, seq, on_host, step):
                    break
            elif not self._try_admit(draft, seq, min(longest, step.budget_tokens), step):
                break
        queue.end_pass()

    # -- inside ---------------------------------------------------------------------------------

    def _admit_loaded(self, draft: Draft, step: Step) -> bool:
        """Let in those whose prefix has landed; False if one of them has to wait on, and with it
        everybody else.
        """
        longest, queue, limits, fits = self.longest_chunk(), self.loading, self.limits, True
        while fits and self._has_place(step) and (seq := queue.head()) is not None:
            if seq.state is State.MOVING_IN:
                queue.pass_over(seq)
                continue
            draft.adopt(seq)
            chunk = min(left_tokens(seq), longest)
            tokens = min(chunk, step.budget_tokens)
            need = draft.chunk_blocks(seq, left_tokens(seq) if limits.fit_all else tokens)
            fits = limits.chunked or tokens == chunk
            fits = fits and draft.available - need >= self._keep_free(step)
            if fits:
                queue.discard(seq)
                self._start(draft, seq, tokens, step)
        queue.end_pass()
        return fits

    def _try_load(self, draft: Draft, seq: Sequence, blocks: int, step: Step) -> bool:
        """Load so many blocks of the head's prefix, if they fit."""
        lacking = chain(self.running.prefilling, self.loading)
        if not draft.try_load(
            seq,
            blocks,
            keep_free=self._keep_free(step),
            reserved_blocks=sum(draft.chunk_blocks(other, left_tokens(other)) for other in lacking),
            fit_all=self.limits.fit_all,
        ):
            return False
        self.waiting.discard(seq)
        self.loading.add(seq)
        return True

    def _try_admit(self, draft: Draft, seq: Sequence, most: int, step: Step) -> bool:
        """Admit the head with a first chunk of at most `most` tokens, if it fits."""
        mark = draft.mark()
        if not draft.try_admit(
            seq,
            keep_free=self._keep_free(step),
            chunk_tokens=most,
            fit_all=self.limits.fit_all,
        ):
            return False
        if not self.limits.chunked and min(left_tokens(seq), self.longest_chunk()) > most:
            draft.rollback(mark)
            return False
        self.waiting.discard(seq)
        self._start(draft, seq, min(left_tokens(seq), most), step)
        return True

    def _start(self, draft: Draft, seq: Sequence, tokens: int, step: Step) -> None:
        self.running.start(draft, seq, tokens)
        step.budget_tokens -= tokens

    def _has_place(self, step: Step) -> bool:
        return step.budget_tokens > 0 and len(self.running.members) < self.limits.max_num_seqs

    def _keep_free(self, step: Step) -> int:
        """Blocks that an admission must leave: the watermark, while others run, and what this
        step's decodes take.
        """
        return (self.limits.watermark_blocks if self.running.members else 0) + step.growth
