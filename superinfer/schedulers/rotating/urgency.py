"""Urgent requests: whom to serve at once, for whom to make room, and whom not to wait for."""

from __future__ import annotations

from math import inf
from operator import attrgetter
from typing import Final

from superinfer.draft import Draft
from superinfer.schedulers.rotating.counters import Counters
from superinfer.schedulers.rotating.deadlines import Job
from superinfer.schedulers.rotating.device import OnDevice
from superinfer.schedulers.rotating.entrance import Entrance, need_blocks
from superinfer.schedulers.rotating.outlook import Outlook
from superinfer.schedulers.rotating.settings import Settings
from superinfer.schedulers.rotating.triage import Work, given_up
from superinfer.schedulers.rotating.waiting import Waiting
from superinfer.sequence import State

_WAITING: Final = State.WAITING  # reading a member off its class is slow
URGENT_AT_ONCE: Final = 8
"""Urgent requests for which one decision makes room."""
LOST_WEIGHT: Final = 1e-9
"""Of what is late in any case."""
MOST_RELEGATION_MARGIN: Final = 0.3
"""The margin of relegation is never more than this share of the TTFT target."""


class Urgency:
    """Serves level 0, once per decision."""

    def __init__(
        self,
        settings: Settings,
        outlook: Outlook,
        waiting: Waiting,
        device: OnDevice,
        entrance: Entrance,
        counters: Counters,
    ) -> None:
        self.blocked = False
        """True if an urgent request waits for room."""
        self.blocked_until_s = inf
        """When waiting for room for an urgent request stops making sense."""
        self._settings = settings
        self._outlook = outlook
        self._waiting = waiting
        self._device = device
        self._entrance = entrance
        self._counters = counters
        self._hurried: list[Job] = []
        self._hurried_for: Draft | None = None
        """The decision that this holds for."""

    def serve(self, draft: Draft) -> int:
        """Take in urgent requests, rotating others out; returns blocks kept for those that wait."""
        self.blocked_until_s = inf
        owed = self._waiting.owed(draft, need_blocks)
        if owed is not None and owed.seq.state is _WAITING and self._device.aged_prefill:
            owed = None  # the share is being spent, and whose turn is next is open until it is
        self.blocked = owed is not None and not self._enters(draft, owed)
        if owed is not None and self.blocked:
            return need_blocks(draft, owed)  # what comes free is for the share of the aged
        if self._settings.relegation:
            self._give_up(draft)
        return self._serve_urgent(draft)

    def rest(self) -> None:
        """Nobody waits."""
        self.blocked, self.blocked_until_s = False, inf

    def hurried(self, draft: Draft) -> list[Job]:
        """Prompts that are wanted soon, begun ones and the most urgent, by when they are due."""
        if self._hurried_for is not draft:
            begun = [job for job in self._device.prefilling if job.hurried]
            jobs = [*begun, *self._waiting.all_urgent(draft.now)]
            jobs.sort(key=attrgetter("first_due_s"))
            self._hurried, self._hurried_for = jobs, draft
        return self._hurried

    def late(self, draft: Draft) -> list[Job]:
        """Whose first tokens cannot be in time at the present rate of prefill, if as many as
        possible are. Who has begun is given up only if it is late by itself and others would be
        late for it, and stays if it is aged. A single request is not judged.
        """
        jobs = self.hurried(draft)
        if len(jobs) < 2:
            return []
        now, tokens = draft.now, self._outlook.chunk_tokens
        step_s = self._outlook.prefill_s(tokens)
        return given_up([(judged(job, work_of(job, now, tokens, step_s)), job) for job in jobs])

    # -- inside ---------------------------------------------------------------------------------

    def _serve_urgent(self, draft: Draft) -> int:
        """Take in the most urgent ones, as far as there is room or rotation makes some; returns
        blocks kept for those that wait for it.
        """
        blocked: list[Job] = []
        later: list[Job] = []
        reserved = 0
        for _ in range(URGENT_AT_ONCE):
            job = self._waiting.urgent(draft.now)
            if job is None:
                break
            turn = not self._settings.prefill_turns or self._has_turn(job)
            if turn and self._entrance.take_in(draft, job, reserved):
                continue
            if draft.now >= self._hopeless_from_s(job):
                self._relegate(draft, job)
                continue
            if not turn:
                self._waiting.skip(job)
                later.append(job)
                continue
            if self._entrance.yields(draft, job):
                self._waiting.set_aside(job)
                blocked.append(job)
                continue
            room = self._entrance.make_room(draft, job, reserved)
            if room and self._entrance.take_in(draft, job, reserved):
                continue
            self._waiting.set_aside(job)
            blocked.append(job)
            if not room:
                break
            reserved += need_blocks(draft, job)  # the copies under way make room
        self._put_back(blocked, later)
        return reserved

    def _put_back(self, blocked: list[Job], later: list[Job]) -> None:
        """Let those wait on that the decision passed over: for room, or for their turn."""
        self.blocked = bool(blocked)
        for job in later:
            self._waiting.unskip(job)
        for job in blocked:
            self._waiting.put_back(job)
            self.blocked_until_s = min(self.blocked_until_s, self._hopeless_from_s(job))

    def _enters(self, draft: Draft, job: Job) -> bool:
        """Take a request in, rotating others out where there is no room."""
        entrance = self._entrance
        if entrance.take_in(draft, job, 0):
            return True
        return entrance.make_room(draft, job, 0) and entrance.take_in(draft, job, 0)

    def _has_turn(self, job: Job) -> bool:
        """False for a prompt of which nothing would be computed in this step, because prompts on
        the device come before it and fill the chunk. A place would give it no token earlier: it
        would only hold blocks, and could not be given up any more for others.
        """
        if job.seq.state is not _WAITING:
            return True
        order, room = job.order, self._outlook.chunk_tokens
        for other in self._device.prefilling:
            if room <= 0 or order < other.order:
                break
            room -= other.tokens_to_compute
        return room > 0

    def _give_up(self, draft: Draft) -> None:
        """Relegate those for whose first tokens or answers those of others would be late."""
        for job in self.late(draft):
            self._relegate(draft, job)
        for job in self._waiting.late_answers(draft.now, self._device.version):
            self._relegate(draft, job)

    def _hopeless_from_s(self, job: Job) -> float:
        """From when on a first token is not waited for; inf for a stream that has begun."""
        settings = self._settings
        if job.seq.output_tokens or not settings.relegation:
            return inf
        ttft_s = job.seq.request.slo.ttft_s or inf
        return job.start_by_s - min(settings.relegation_margin_s, MOST_RELEGATION_MARGIN * ttft_s)

    def _relegate(self, draft: Draft, job: Job) -> None:
        """Stop hurrying a request whose first token, or answer, will be late; it is served before
        those that were promised none.
        """
        job.relegated = True
        if job.placed:
            self._entrance.send_back(draft, job)
        else:
            self._waiting.forget(job)
            self._waiting.add(job, draft.now)
        self._counters.add("relegations")
        draft.note("relegate", job.seq)


def judged(job: Job, work: Work) -> Work:
    """Who is on the device stays, but for a prompt whose first token will be late in any case: it
    has nothing to lose, so it is the first to go where others would be late. The aged stay even
    then, as they have been promised their places; nobody is given up for a lost first token.
    """
    if not job.placed:
        return work
    if work.work <= work.due:
        return work._replace(fixed=True)
    if job.aged:
        return work._replace(due=inf, fixed=True)
    return work._replace(due=inf, weight=LOST_WEIGHT)


def work_of(job: Job, now: float, tokens: int, step_s: float) -> Work:
    """A prompt as a job of the device, in steps of so many tokens. First tokens come at the ends of
    steps: only those count that are over in time.
    """
    work, seq = job.tokens_to_compute, job.seq
    if seq.output_tokens or job.first_due_s == inf:
        return Work(inf, work, seq.output_tokens > 0, job.weight)
    return Work((job.first_due_s - now) // step_s * tokens, work, False, job.weight)
