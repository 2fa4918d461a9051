"""Whose answer is given up, so that as many others as possible are there in time.

Requests that owe an answer by some time, and no first token, are served in the order in which they
are due. When more come than the device can serve, each of them would come in just before its latest
start, and most would be late. So those that wait are judged by Moore's rule (triage.py) as soon as
anybody comes or goes. The device is the single machine of that rule, and a request takes

    its prefill alone + its expected tokens * (a step of N decodes) / N

seconds of it, N being as many as fit into memory side by side. It has to come in by its latest
start, when those due before it have had theirs.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from math import inf
from typing import Final

from superinfer.costs.base import Chunk
from superinfer.schedulers.rotating.deadlines import Job
from superinfer.schedulers.rotating.outlook import Outlook
from superinfer.schedulers.rotating.settings import Settings
from superinfer.schedulers.rotating.triage import Work, given_up

JUDGED_AT_ONCE: Final = 256
"""Requests that are judged, those due soonest: they may be a day's work that is due tomorrow."""

_Entry = tuple[float, int, Job, float, int]
"""When it is due, its number, its prefill in seconds, and its expected tokens."""


class AnswersDue:
    """Requests off the device that have not begun and have a deadline for their answer alone."""

    def __init__(self, settings: Settings, outlook: Outlook) -> None:
        machine = outlook.machine
        self._outlook, self._cost = outlook, machine.cost
        self._max_seqs = settings.max_num_seqs
        self._chunk_tokens = settings.max_num_batched_tokens
        self._kv_tokens = machine.total_blocks * machine.block_tokens
        self._waiting: list[_Entry] = []
        self._version = -1
        """Of who is on the device, when they were judged; -1: somebody has come since."""

    def add(self, job: Job) -> None:
        """A request waits that is not given up, if it is one of these."""
        self.discard(job)
        if job.end_due_s == inf or job.first_due_s < inf or job.seq.output_tokens:
            return
        prefill_s = self._prefill_s(max(1, job.tokens_to_compute))
        tokens = self._outlook.tokens_left(job, 0)
        insort(self._waiting, (job.end_due_s, job.seq.request.index, job, prefill_s, tokens))
        self._version = -1

    def discard(self, job: Job) -> None:
        """It waits no longer, or is not waited for; nothing happens if it is not here."""
        waiting = self._waiting
        place = bisect_left(waiting, (job.end_due_s, job.seq.request.index))
        if place < len(waiting) and waiting[place][2] is job:
            del waiting[place]

    def late(self, now: float, version: int) -> list[Job]:
        """Who is given up, if anybody has come or gone since this was asked last: `version` says
        who is on the device. A single request is not judged.
        """
        if version == self._version or len(self._waiting) < 2:
            return []
        self._version = version
        judged = self._waiting[:JUDGED_AT_ONCE]
        token_s = self._token_s(judged)
        return given_up([_work(entry, now, token_s) for entry in judged])

    def _prefill_s(self, tokens: int) -> float:
        """A prompt alone, in whole budgets."""
        chunk = min(tokens, self._chunk_tokens)
        step_s = self._cost.step_s([Chunk(chunk, tokens // 2)], 0, 0) + self._cost.host_s(1)
        return -(-tokens // chunk) * step_s

    def _token_s(self, judged: list[_Entry]) -> float:
        """What one token takes of the device where as many decode as fit."""
        held = 0.0
        for _, _, job, _, tokens in judged:
            held += job.seq.prefill_tokens + tokens / 2
        held /= len(judged)
        size = max(1, int(min(self._max_seqs, self._kv_tokens / held)))
        return (self._cost.step_s((), size, int(size * held)) + self._cost.host_s(size)) / size


def _work(entry: _Entry, now: float, token_s: float) -> tuple[Work, Job]:
    """A request as a job of one machine, on which it has to start in time."""
    _, _, job, prefill_s, tokens = entry
    work_s = prefill_s + tokens * token_s
    return Work(job.start_by_s - now + work_s, work_s, False, job.weight), job
