"""What a request is owed, and by when: its deadlines, its slack, and its latest start.

With arrival a, targets D (TTFT), tau (time per token) and E (end to end), and n tokens given:

* the first token is due at a + D;
* paced delivery: token n (from 0) is due at a + D + n * tau, so tokens that come early are credit;
* strict delivery: the mean pace must hold, token n is due at (first token) + n * tau;
* no gap may exceed the class's longest tolerated stall, if it declares one;
* the answer is due at a + E; a floor of r tokens/s on N expected tokens is E = N / r.

The latest start of a request that is off the device is its next due time less what getting there
takes: its prefill, or a copy back and one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from superinfer.request import Request
from superinfer.schedulers.rotating.lengths import MEDIAN, LengthEstimator
from superinfer.sequence import Sequence

TURNS: Final = 3
"""Requests without a latest start: whose first token is late, who has begun, the rest."""


@dataclass(slots=True, eq=False, init=False)
class Job:
    """One live request as this scheduler sees it."""

    seq: Sequence
    first_due_s: float
    """When the first token is due; inf without a target."""
    pace_s: float
    """Seconds per token owed after it; inf without a target."""
    stall_s: float
    """Longest gap that the class tolerates, no shorter than its pace; inf where it bounds none."""
    end_due_s: float
    """When the whole answer is due; inf without a target."""
    paced: bool
    weight: float
    level: int
    start_by_s: float
    """Latest start that keeps every deadline, while it is off the device."""
    due_s: float
    """When what it starts with, a prefill or a copy back, has to be done for that."""
    ticket: int
    """Changes whenever its place in the queues does."""
    relegated: bool
    aged: bool
    since_s: float
    """Since when it waits without a token."""
    base_s: float
    """While decoding: due time of the next token less the pace times the batch's step number."""
    placed: bool
    """On the device, or on the way in."""
    decoding: bool
    join_step: int
    end_step: int
    """Step of the batch at which it is expected to end, while it decodes."""
    early_end_step: int
    expected_at_step: int
    """Step at which it may end early, and when that was found (`Debts`)."""
    aged_blocks: int
    """Blocks that it holds of the share of the aged."""
    owed_rate: float
    """Tokens/s that it is owed, once its stream has begun."""
    cached_tokens: int
    """While it waits: leading tokens of its prefill that were cached when it was queued."""

    # Written out, because the one that `dataclass` makes is never compiled.
    def __init__(self, seq: Sequence, expected_tokens: int) -> None:
        request, slo = seq.request, seq.request.slo
        slo_class, arrival_s = request.slo_class, request.arrival_s
        end_s = inf if slo.e2el_s is None else slo.e2el_s
        if slo.min_tokens_per_s:
            end_s = min(end_s, expected_tokens / slo.min_tokens_per_s)
        self.seq = seq
        self.first_due_s = inf if slo.ttft_s is None else arrival_s + slo.ttft_s
        self.pace_s = inf if slo.tpot_s is None else slo.tpot_s
        self.stall_s = _tolerated_stall_s(request)
        self.end_due_s = arrival_s + end_s
        self.paced = slo_class.delivery == "paced"
        self.weight = slo_class.weight
        self.level = 3
        self.start_by_s = self.due_s = inf
        self.ticket = 0
        self.relegated = self.aged = False
        self.since_s = arrival_s
        self.base_s = inf
        self.placed = self.decoding = False
        self.join_step = self.end_step = self.aged_blocks = 0
        self.expected_at_step = self.early_end_step = 0
        self.owed_rate = 0.0
        self.cached_tokens = 0

    @property
    def owes(self) -> bool:
        """False for a request without any deadline."""
        ends = self.stall_s < inf or self.end_due_s < inf
        return ends or self.first_due_s < inf or self.pace_s < inf

    @property
    def tokens_to_compute(self) -> int:
        """What is left of its prefill: none for a stream, whose answer counts as computed too."""
        seq = self.seq
        return max(0, seq.prefill_tokens - max(seq.computed_tokens, self.cached_tokens))

    @property
    def hurried(self) -> bool:
        """True while it is off the device with a latest start, or came in with one."""
        return self.start_by_s < inf

    @property
    def late(self) -> bool:
        """True while it waits for a first token that was given up."""
        promised = self.first_due_s < inf and self.relegated
        return promised and not (self.seq.output_tokens or self.hurried or self.aged)

    @property
    def turn(self) -> int:
        """Which of the `TURNS` it belongs to, from 0."""
        if self.seq.output_tokens:
            return 1
        return 0 if self.relegated else 2

    @property
    def order(self) -> tuple[float, ...]:
        """Place among requests that want to start or go on with a prefill; lowest first.

        Who is due first, not who has to start first: a long prompt has to start before short ones
        that are due before it. In the order of deadlines nothing is late unless something is in
        every order.
        """
        request = self.seq.request
        turn = 0 if self.hurried else self.turn
        return (self.level, self.due_s, turn, request.arrival_s, request.index)


def job_of(seq: Sequence, lengths: LengthEstimator) -> Job:
    """The job of a new request; a floor of tokens/s counts for the answer that is expected."""
    request = seq.request
    hurry = request.slo.min_tokens_per_s
    return Job(seq, lengths.tokens_left(request, 0, MEDIAN) if hurry else request.max_tokens)


def _tolerated_stall_s(request: Request) -> float:
    stall_s = request.slo_class.max_stall_s
    return inf if stall_s is None else max(stall_s, request.slo.tpot_s or 0.0)


def credit_due_s(job: Job, given_tokens: int, first_token_s: float) -> float:
    """When token number `given_tokens` (from 0, not the first) is due at the pace owed."""
    if job.pace_s == inf:
        return inf
    start_s = first_token_s
    if job.paced and job.first_due_s < inf:
        start_s = max(first_token_s, job.first_due_s)
    return start_s + given_tokens * job.pace_s


def next_due_s(job: Job, given_tokens: int, last_token_s: float) -> float:
    """When the next token is due, if the request gets none until then."""
    if not given_tokens:
        return job.first_due_s
    first_s = job.seq.first_token_s
    credit_s = credit_due_s(job, given_tokens, last_token_s if first_s is None else first_s)
    return min(credit_s, last_token_s + job.stall_s)
