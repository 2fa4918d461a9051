"""Whether one more request fits: by the blocks it will need, and by the pace it is owed."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from math import inf
from typing import Final

import numpy as np

from superinfer.draft import Draft
from superinfer.schedulers.base import Machine
from superinfer.schedulers.rotating.deadlines import Job
from superinfer.schedulers.rotating.lengths import CAUTIOUS, LengthEstimator
from superinfer.sequence import Sequence

RATE_SHARE: Final = 0.9
"""Of the tokens/s that the batch can give, what streams may be owed."""


class Admission:
    """Predictions over everybody on the device; asked only when somebody wants to come in."""

    def __init__(self, machine: Machine, lengths: LengthEstimator, memory_share: float) -> None:
        self._share = memory_share
        self._block = machine.block_tokens
        self._rounding = machine.block_tokens // 2
        self._lengths = lengths
        self._owed_rate = 0.0
        self._refused: tuple[int, int] | None = None
        self._ends: list[tuple[int, int]] = []
        """Of those who decode: when each is expected to end, and its number; not of the overdue."""
        self._end_steps = 0
        """Their sum."""
        self._overdue = 0
        """Who decodes and should have ended by now."""

    def joined(self, job: Job, draft: Draft) -> None:
        """Note when a request that joined the batch is cautiously expected to end."""
        given = draft.batch.output_tokens(job.seq)
        left = self._lengths.tokens_left(job.seq.request, given, CAUTIOUS)
        job.end_step = draft.batch.step + left
        self._end_steps += job.end_step
        insort(self._ends, (job.end_step, job.seq.request.index))

    def left(self, job: Job) -> None:
        """It left the batch."""
        ends, end = self._ends, (job.end_step, job.seq.request.index)
        place = bisect_left(ends, end)
        if place < len(ends) and ends[place] == end:
            del ends[place]
            self._end_steps -= job.end_step
        else:
            self._overdue -= 1

    def fits(
        self,
        draft: Draft,
        job: Job,
        decoding: Iterable[Job],
        entering: Iterable[Job],
        version: int,
    ) -> bool:
        """True if the predicted peak stays in memory with this request on the device.

        When the i-th to end does, those before it are gone and the others have grown by its
        remaining tokens: `max_i sum(j <= i) len_j + i * left_i`, by remaining tokens descending
        (the Past-Future scheduler of LightLLM, arXiv 2507.10150). As everybody grows by a token a
        step, the answer stays the same until somebody comes or goes: `version` says when.
        """
        if self._refused == (version, job.ticket):
            return False
        if self._fits_even_together(draft, job, entering):
            return True
        jobs = [job, *decoding, *entering]
        held = np.array([self._held_tokens(draft, j) for j in jobs], np.int64)
        left = np.array([self._left(draft, j) for j in jobs], np.int64)
        order = np.argsort(-left, kind="stable")
        peaks = np.cumsum(held[order]) + np.arange(1, len(jobs) + 1) * left[order]
        if int(peaks.max()) <= self._tokens(draft):
            return True
        self._refused = (version, job.ticket)
        return False

    def _fits_even_together(self, draft: Draft, job: Job, entering: Iterable[Job]) -> bool:
        """True if there is room even for all of them at their full lengths at once."""
        step = draft.batch.step
        self._find_overdue(step)
        held = (draft.pool.referenced + draft.blocks_for(_cache_tokens(job.seq))) * self._block
        left = self._end_steps - len(self._ends) * step + self._overdue
        left += self._left(draft, job)
        for other in entering:
            left += self._left(draft, other)
        decoding = len(self._ends) + self._overdue
        return held + left + decoding * self._block <= self._tokens(draft)

    def _find_overdue(self, step: int) -> None:
        """Whose answer is longer than expected gives one token more, and not fewer than none."""
        ends = self._ends
        while ends and ends[0][0] <= step:
            self._end_steps -= ends.pop(0)[0]
            self._overdue += 1

    def _tokens(self, draft: Draft) -> int:
        """Tokens whose cache there may be, at the precisions of this moment."""
        pool = draft.pool
        return int(self._share * (pool.total - pool.lent)) * self._block

    def begin_stream(self, job: Job) -> None:
        """A stream is on the device for the first time: its pace is owed until it ends."""
        if not job.owed_rate and job.pace_s < inf:
            job.owed_rate = 1.0 / job.pace_s
            self._owed_rate += job.owed_rate

    def end_stream(self, job: Job) -> None:
        """Its request has ended."""
        self._owed_rate -= job.owed_rate

    def too_fast(self, job: Job, draft: Draft, step_s: float) -> bool:
        """True if rotating a new stream in would owe more tokens/s than the device gives."""
        if job.pace_s == inf or job.owed_rate:
            return False
        gives = max(1, draft.batch.size) / step_s
        return self._owed_rate + 1.0 / job.pace_s > RATE_SHARE * gives

    def _held_tokens(self, draft: Draft, job: Job) -> int:
        seq = job.seq
        held = draft.batch.length(seq) if job.decoding else _cache_tokens(seq)
        return held + self._rounding

    def _left(self, draft: Draft, job: Job) -> int:
        if job.decoding:
            return max(1, job.end_step - draft.batch.step)
        return self._lengths.tokens_left(job.seq.request, job.seq.output_tokens, CAUTIOUS)


def _cache_tokens(seq: Sequence) -> int:
    """Tokens that the cache of a request takes once it can decode."""
    return max(seq.prefill_tokens, seq.computed_tokens)
