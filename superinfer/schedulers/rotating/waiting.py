"""Who is off the device, in the order in which they should come in."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from math import inf
from operator import attrgetter
from typing import Final

from superinfer.draft import Draft
from superinfer.schedulers.rotating.aging import AgedShare
from superinfer.schedulers.rotating.answers import AnswersDue
from superinfer.schedulers.rotating.deadlines import Job
from superinfer.schedulers.rotating.outlook import Outlook
from superinfer.schedulers.rotating.queues import LEVELS, Alarms, LaxityQueues, TenantQueues
from superinfer.schedulers.rotating.settings import Settings
from superinfer.schedulers.rotating.tenants import TenantCounters
from superinfer.sequence import State

TRIAGED_AT_ONCE: Final = 32
"""Urgent requests among whom one decision chooses when not all can be in time."""
Needs = Callable[[Draft, Job], int]
"""Blocks that a request needs to come in."""
LEVEL_UNITS: Final = (0, 4, 16)
"""Slack below which a request belongs to a level, in units of `level_steps` steps."""

BEGUN: Final = 1
REST: Final = 2
"""Turns of requests without a latest start (`deadlines.TURNS`); before these, who is late."""


class Waiting:
    """Queues by level and slack, by tenant, and by age; alarms for promotion and aging."""

    def __init__(
        self,
        settings: Settings,
        outlook: Outlook,
        tenants: TenantCounters,
        aged: AgedShare,
        answers: AnswersDue,
    ) -> None:
        self._settings = settings
        self._outlook = outlook
        self._aged = aged
        self._laxity = LaxityQueues()
        self._others = TenantQueues(tenants, settings.fairness)
        self._crossings = Alarms()
        self._agings = Alarms()
        self._tickets = count()
        self._answers = answers
        self._late: dict[Job, None] = {}
        """Whose first token was given up."""
        self._streams: dict[Job, None] = {}
        """Who has begun and is owed a pace."""
        self._pressing: dict[Job, None] = {}
        """Those of them that are urgent."""
        self._prompts: dict[Job, int] = {}
        """Whose first token is wanted in time, and what has to be computed for it."""
        self.prompt_tokens = 0
        """The sum of these."""
        self.fair_step = 0
        """Step of the decode batch at which tenants are compared: when somebody last came or went.
        In between nobody can come in for whom there was no room, whoever's turn it were."""

    def add(self, job: Job, now: float) -> None:
        """Queue a request that is off the device, at the level of its slack."""
        free = not (job.owes and self._settings.deadline_order)
        free = free or (job.relegated and not job.seq.output_tokens)
        job.start_by_s = job.due_s = inf
        if not free:
            job.cached_tokens = self._outlook.draft.cached_tokens(job.seq)
            job.start_by_s, job.due_s = self._outlook.start_and_due_s(job)
        job.level = self._level(job, now)
        self._queue(job)
        if job.late:
            self._late[job] = None
        elif job.owed_rate and job.hurried:
            self._streams[job] = None
            self._press(job)
        elif job.hurried:
            self._answers.add(job)
        if job.hurried and not job.seq.output_tokens:
            self._count_prompt(job)

    def comes_in(self, job: Job) -> None:
        """A request has a place on the device: it does not wait here any more."""
        job.placed, job.ticket = True, next(self._tickets)
        job.cached_tokens = 0  # those that it got count as computed
        self.forget(job)

    def forget(self, job: Job) -> None:
        """A request does not wait any more, or has ended."""
        self._late.pop(job, None)
        self._streams.pop(job, None)
        self._pressing.pop(job, None)
        self.prompt_tokens -= self._prompts.pop(job, 0)
        self._answers.discard(job)
        self._aged.forget(job)

    @property
    def late(self) -> int:
        """Requests that wait for a first token that was given up."""
        return len(self._late)

    @property
    def any_away(self) -> bool:
        """True if a stream waits on the host; asked often, and the first one is mostly there."""
        return any(job.seq.state is State.SWAPPED for job in self._streams)

    @property
    def any_pressing(self) -> bool:
        """True if one of them is urgent."""
        return any(job.seq.state is State.SWAPPED for job in self._pressing)

    @property
    def away(self) -> Job | None:
        """Of the streams that wait on the host, the one that has to be back first."""
        away = [job for job in self._streams if job.seq.state is State.SWAPPED]
        return min(away, key=attrgetter("start_by_s")) if away else None

    def promote(self, now: float) -> Job | None:
        """The next request whose slack has crossed a bound, one level up."""
        job = self._crossings.due(now)
        if job is not None:
            job.level -= 1
            self._queue(job)
            self._press(job)
        return job

    def age(self, now: float) -> Job | None:
        """The next request that has waited too long."""
        job = self._agings.due(now)
        if job is not None:
            job.aged = True
            self._answers.discard(job)
            self._queue(job)
        return job

    def next_s(self, now: float) -> float:
        """The next promotion or aging, or change of whose turn it is."""
        alarm_s = min(self._crossings.next_s(), self._agings.next_s())
        return min(alarm_s, self._laxity.next_turn_s(now))

    def urgent(self, now: float) -> Job | None:
        """The most urgent of level 0."""
        job = self._laxity.head(now)
        return job if job is not None and job.level == 0 else None

    def all_urgent(self, now: float) -> list[Job]:
        """The most urgent requests, no more than a decision can weigh against each other."""
        found: list[Job] = []
        while len(found) < TRIAGED_AT_ONCE and (job := self.urgent(now)) is not None:
            found.append(job)
            self._laxity.pop(job)
        for job in found:
            self._laxity.push(job)
        return found

    def late_answers(self, now: float, version: int) -> list[Job]:
        """Whose answers are given up for those of others; `version` says who is on the device."""
        return self._answers.late(now, version)

    def skip(self, job: Job) -> None:
        """Pass over the most urgent one until `unskip`, in the same decision."""
        self._laxity.pop(job)

    def unskip(self, job: Job) -> None:
        """Queue it again where it was."""
        self._laxity.push(job)

    def set_aside(self, job: Job) -> None:
        """Pass over a request until `put_back`, or for ever if it is turned away."""
        job.ticket = next(self._tickets)

    def put_back(self, job: Job) -> None:
        """Queue it where it was."""
        self._queue(job)

    def owed(self, draft: Draft, need_blocks: Needs) -> Job | None:
        """The aged request that comes before everybody, while the share of the aged lasts."""
        aged = self._aged.head() if self._aged.owed else None
        fits = aged and self._aged.fits(need_blocks(draft, aged), draft.pool.size)
        return aged if fits else None

    def head(self, now: float) -> Job | None:
        """The next to come in: by slack, then who is late or has begun, then the aged, then the
        rest. The aged whose share is owed have come before (`owed`).
        """
        step, others = self.fair_step, self._others
        first = self._laxity.head(now) or others.head(step, 0, REST) or self._aged.head()
        return first or others.head(step, REST)

    def may_overtake(self, job: Job) -> bool:
        """True if what is computed for a request can change who comes before it: the share of the
        aged comes due, or another tenant's turn does.
        """
        aged = self._aged
        share_is_due = aged.owed if job.aged else aged.head() is not None
        return share_is_due or self._others.contested

    def behind_late(self) -> Job | None:
        """Who may pass a request whose first token is late and that finds no room: one that has
        begun, so that its memory is of use meanwhile.
        """
        return self._others.head(self.fair_step, BEGUN, REST)

    def bound_s(self, job: Job, level: int) -> float:
        """Slack below which a request belongs to a level."""
        settings, urgent_s = self._settings, self._outlook.reaction_s(job)
        if not job.seq.output_tokens:
            ttft_s = job.seq.request.slo.ttft_s or 0.0
            urgent_s += max(settings.promotion_margin_s, settings.promotion_share * ttft_s)
        elif job.paced or job.stall_s < inf:  # one token that is late is one too many
            urgent_s += settings.promotion_margin_s
        unit_s = settings.level_steps * self._outlook.step_s
        return max(urgent_s, LEVEL_UNITS[level] * unit_s)

    # -- inside ---------------------------------------------------------------------------------

    def _count_prompt(self, job: Job) -> None:
        tokens = job.tokens_to_compute
        self.prompt_tokens += tokens - self._prompts.get(job, 0)
        self._prompts[job] = tokens

    def _press(self, job: Job) -> None:
        if job.level == 0 and job in self._streams:
            self._pressing[job] = None

    def _queue(self, job: Job) -> None:
        settings = self._settings
        job.ticket = next(self._tickets)
        if job.aged:
            self._aged.push(job)
        elif not job.hurried:
            self._others.push(job)
        else:
            self._laxity.push(job)
            if settings.promotion and job.level:
                self._crossings.set(job.start_by_s - self.bound_s(job, job.level - 1), job)
        if settings.aging and not job.aged and not _keeps_its_turn(job):
            self._agings.set(self._aged_from_s(job), job)

    def _aged_from_s(self, job: Job) -> float:
        """When a request has waited too long without a token: not before its latest start, up to
        which its deadline brings it in sooner than its age would.
        """
        ttft_s = job.seq.request.slo.ttft_s or 0.0
        patience_s = max(self._settings.max_wait_s, self._settings.max_wait_ttfts * ttft_s)
        from_s = job.since_s + patience_s
        return max(from_s, job.start_by_s) if job.hurried else from_s

    def _level(self, job: Job, now: float) -> int:
        """The level that the slack implies; without skip-join the new ones enter at the top."""
        if not job.hurried:
            return LEVELS - 1
        if not (self._settings.skip_join or job.seq.output_tokens):
            return 0
        slack_s = job.start_by_s - now
        levels = range(LEVELS - 1)
        return next((i for i in levels if slack_s < self.bound_s(job, i)), LEVELS - 1)


def _keeps_its_turn(job: Job) -> bool:
    """True for a stream at the top level: the longer it waits the fewer come before it, whatever
    the share of the aged is. A deadline for its answer alone is no turn to keep once that is late.
    """
    owed_soon = min(job.pace_s, job.stall_s) < inf
    return owed_soon and job.hurried and job.level == 0 and job.seq.output_tokens > 0
