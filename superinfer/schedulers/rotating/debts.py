"""Streams that may fall behind for a while, because their mean pace can still be kept.

A TPOT target is a mean over the answer: a stream that gets its tokens faster than it has to has
time to spare, and one that is behind can catch up. If a stream is expected to give r more tokens,
the next of them due in u seconds, and steps take f seconds from now on, its last token comes

    spare = u + (r - 1) * pace - r * f

seconds before it is due. m steps of T seconds each instead take min(m, r) * (T - f) of that. The
pace is lost where that is more than there is; who has nothing to spare has lost it already.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from math import inf
from typing import Final

from superinfer.schedulers.rotating.deadlines import Job
from superinfer.schedulers.rotating.outlook import Outlook

EARLY: Final = 0.1
"""Quantile of the answers at which a stream is expected to end: nine in ten have longer to catch up
than is counted on."""
LOOKED_AT: Final = 16
"""Streams, those with least to spare, of which a decision asks whether they are lost: they speak
for all that could be."""


class Debts:
    """The streams that decode, by what they have to spare.

    A step takes the same time from all of them, so their order stays, and a decision looks at the
    first few alone. What shifts it (answers that go on for longer than expected, steps that take
    longer than they did) is brought up to date for one stream per decision, in turns.
    """

    def __init__(self, outlook: Outlook, margin: float) -> None:
        """A step may take what is predicted, over `margin`."""
        self._outlook = outlook
        self._margin = margin
        self._joined: dict[Job, None] = {}
        """Not in order yet."""
        self._order: list[tuple[float, int]] = []
        """By what each had to spare, plus the clock then; with the number of its request."""
        self._by_pace: dict[float, list[tuple[float, int]]] = {}
        """The same of each pace that is owed."""
        self._jobs: dict[int, Job] = {}
        self._keys: dict[Job, float] = {}
        self._turns: deque[Job] = deque()
        self._gaps_s: list[float] = []
        self._clock_s = 0.0
        """What a stream that was here from the start would have lost."""
        self._now, self._step = 0.0, 0
        self._future_s = 0.0

    def add(self, job: Job) -> None:
        """A request decodes from now on."""
        if job.pace_s < inf:
            self._joined[job] = None
            insort(self._gaps_s, job.stall_s)

    def remove(self, job: Job) -> None:
        """It decodes no longer."""
        if job.pace_s == inf:
            return
        del self._gaps_s[bisect_left(self._gaps_s, job.stall_s)]
        if job in self._joined:
            del self._joined[job]
        else:
            self._take_out(job)

    @property
    def longest_gap_s(self) -> float:
        """The longest gap that all of them tolerate; inf where no class bounds it."""
        return self._gaps_s[0] if self._gaps_s else inf

    def begin(self, future_s: float) -> None:
        """A decision: steps are expected to take `future_s` seconds from now on."""
        draft = self._outlook.draft
        now, step = draft.now, draft.batch.step
        self._clock_s += now - self._now - (step - self._step) * self._future_s
        self._now, self._step, self._future_s = now, step, future_s
        for job in self._joined:
            self._put_in(job)
        self._joined.clear()
        self._renew_one()

    @property
    def hopeless_share(self) -> float:
        """Of the streams, those that have nothing to spare."""
        order = self._order
        return bisect_left(order, (self._clock_s, -1)) / max(1, len(order))

    @property
    def kept_paces_s(self) -> list[float]:
        """The paces that a stream to whom they are owed can still keep."""
        now = (self._clock_s, -1)
        return [pace_s for pace_s, order in self._by_pace.items() if order[-1] >= now]

    def lost(self, steps: float, step_s: float) -> float:
        """Weight of the streams to whom so many steps of so many seconds would cost the pace."""
        more_s = step_s / self._margin - self._future_s
        if more_s <= 0:
            return 0.0
        order, weight = self._order, 0.0
        first = bisect_left(order, (self._clock_s, -1))
        stop = bisect_left(order, (self._clock_s + steps * more_s, -1))
        looked_at = min(stop - first, LOOKED_AT)
        for _, index in order[first : first + looked_at]:
            job = self._jobs[index]
            left = self._tokens_left(job)
            if 0 <= self._spare_s(job, left) < min(steps, left) * more_s:
                weight += job.weight
        return weight if looked_at < LOOKED_AT else weight * (stop - first) / LOOKED_AT

    # -- inside ---------------------------------------------------------------------------------

    def _spare_s(self, job: Job, left: int) -> float:
        due_s = job.base_s + self._step * job.pace_s - self._now
        return due_s + (left - 1) * job.pace_s - left * self._future_s

    def _tokens_left(self, job: Job) -> int:
        """What is counted on of the rest of the answer; asked anew when half of it has come. A
        paced stream counts on nothing: each of its tokens is due.
        """
        if job.paced:
            return 1
        left = job.early_end_step - self._step
        if left <= self._step - job.expected_at_step:
            left = self._expect(job)
        return left

    def _expect(self, job: Job) -> int:
        given = self._outlook.draft.batch.output_tokens(job.seq)
        left = self._outlook.tokens_left(job, given, EARLY)
        job.expected_at_step, job.early_end_step = self._step, self._step + left
        return left

    def _put_in(self, job: Job) -> None:
        left = 1 if job.paced else self._expect(job)
        key_s, index = self._clock_s + self._spare_s(job, left), job.seq.request.index
        self._keys[job] = key_s
        self._jobs[index] = job
        for order in (self._order, self._by_pace.setdefault(job.pace_s, [])):
            insort(order, (key_s, index))
        self._turns.append(job)

    def _take_out(self, job: Job) -> None:
        index = job.seq.request.index
        del self._jobs[index]
        key, same_pace = (self._keys.pop(job), index), self._by_pace[job.pace_s]
        for order in (self._order, same_pace):
            del order[bisect_left(order, key)]
        if not same_pace:
            del self._by_pace[job.pace_s]

    def _renew_one(self) -> None:
        """Look again at the stream at which nobody has looked for the longest time."""
        turns = self._turns
        while turns:
            job = turns.popleft()
            if job in self._keys:
                self._take_out(job)
                self._put_in(job)
                return
