"""What the near future looks like: how long steps, prefills and copies will take, and so by when a
request has to start.
"""

from __future__ import annotations

from math import inf
from typing import Final

from superinfer.costs.base import Chunk
from superinfer.draft import Draft
from superinfer.schedulers.base import Machine
from superinfer.schedulers.rotating.deadlines import Job, credit_due_s, next_due_s
from superinfer.schedulers.rotating.lengths import MEDIAN, LengthEstimator
from superinfer.schedulers.rotating.recent_steps import RecentSteps
from superinfer.sequence import Sequence

COMPLETION_MARGIN: Final = 1.3
"""Safety on the predicted time to the end of an answer, half of which are longer than expected."""


class Outlook:
    """Predictions from the cost model, for the present decode batch."""

    def __init__(self, machine: Machine, lengths: LengthEstimator, chunk_tokens: int) -> None:
        self.machine = machine
        self._cost = machine.cost
        self._lengths = lengths
        self.chunk_tokens = chunk_tokens
        """Prefill tokens that a step takes at present."""
        self._draft: Draft | None = None
        self._step_s: float | None = None
        self._recent = RecentSteps()

    def begin(self, draft: Draft) -> None:
        """A new decision: forget what was predicted for the last one."""
        self._draft, self._step_s = draft, None
        self._recent.look(draft)

    @property
    def draft(self) -> Draft:
        """The decision under way."""
        assert self._draft is not None
        return self._draft

    @property
    def step_s(self) -> float:
        """A step of the present decodes alone, host time included."""
        if self._step_s is None:
            batch = self.draft.batch
            size, context = max(1, batch.size), max(1, batch.context_tokens)
            self._step_s = self._cost.step_s((), size, context) + self._cost.host_s(size)
        return self._step_s

    @property
    def recent_step_s(self) -> float:
        """A step as long as lately, when prompts were computed beside the decodes: what a token
        of an answer takes where requests wait for their turn.
        """
        return max(self.step_s, self._recent.mean_s)

    def likely_step_s(self, prompt_tokens: int, answer_tokens: float) -> float:
        """A step in the mean over so many tokens of an answer: as long as lately, and longer for
        prompts of so many tokens that wait to be computed beside it.
        """
        chunk, alone_s = self.chunk_tokens, self.step_s
        with_chunk_s, recent_s = self.prefill_s(chunk), self.recent_step_s
        share = prompt_tokens / (chunk * max(1.0, answer_tokens))
        return min(max(with_chunk_s, recent_s), recent_s + share * (with_chunk_s - alone_s))

    def prefill_s(self, tokens: int) -> float:
        """A prompt of so many tokens beside the present decodes, in chunks of the present size."""
        chunk = min(tokens, self.chunk_tokens)
        steps, batch = -(-tokens // chunk), self.draft.batch
        one_s = self._cost.step_s([Chunk(chunk, tokens // 2)], batch.size, batch.context_tokens)
        return steps * (one_s + self._cost.host_s(batch.size + 1))

    def tokens_left(self, job: Job, given_tokens: int, quantile: float = MEDIAN) -> int:
        """Expected rest of an answer."""
        return self._lengths.tokens_left(job.seq.request, given_tokens, quantile)

    def copy_s(self, job: Job) -> float:
        """One way between host and device."""
        seq = job.seq
        blocks = seq.host_blocks or self.draft.held_blocks(seq)
        return self.draft.copy_s(blocks, "h2d", seq.host_small)

    def reaction_s(self, job: Job) -> float:
        """Two steps, and the copy of what has to leave or come back."""
        seq = job.seq
        blocks = seq.host_blocks or self.draft.blocks_for(seq.prefill_tokens)
        return 2 * self.step_s + self.draft.copy_s(blocks, "d2h", seq.host_small)

    def lead_s(self, job: Job) -> float:
        """From the start of a request that is off the device to its next token."""
        seq = job.seq
        left = job.tokens_to_compute
        copy_s = self.copy_s(job) if seq.host_blocks else 0.0
        return copy_s + (self.prefill_s(left) if left > 0 else self.step_s)

    def start_and_due_s(self, job: Job) -> tuple[float, float]:
        """Latest start of a request that is off the device, and when what it starts with has to be
        done for it; inf if it owes nothing.
        """
        seq, lead_s = job.seq, self.lead_s(job)
        due_s = next_due_s(job, seq.output_tokens, self._last_token_s(seq))
        start_s = self._completion_start_s(job, seq.output_tokens, lead_s)
        return min(due_s - lead_s, start_s), min(due_s, start_s + lead_s)

    def base_s(self, job: Job, now: float) -> float:
        """Where a request that has just joined the batch stands among its like (`Job.base_s`)."""
        seq, batch = job.seq, self.draft.batch
        given = batch.output_tokens(seq)
        if job.pace_s < inf:
            first_s = now if seq.first_token_s is None else seq.first_token_s
            return credit_due_s(job, given, first_s) - batch.step * job.pace_s
        if job.end_due_s < inf:
            return self._completion_start_s(job, given, 0.0) - now
        return seq.request.arrival_s

    def _last_token_s(self, seq: Sequence) -> float:
        """When the latest token came; with lag 1 its step may be on the device still."""
        batch = self.draft.batch
        if seq.first_token_s is None or seq.last_token_step >= batch.known_steps:
            return self.draft.now
        return batch.last_token_s(seq)

    def _completion_start_s(self, job: Job, given_tokens: int, lead_s: float) -> float:
        if job.end_due_s == inf:
            return inf
        left = self.tokens_left(job, given_tokens)
        return job.end_due_s - COMPLETION_MARGIN * (lead_s + left * self.recent_step_s)
