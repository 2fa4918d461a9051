"""Who leaves the device for somebody more urgent, and when that pays."""

from __future__ import annotations

from collections.abc import Collection
from math import inf
from typing import Final

from superinfer.draft import Draft
from superinfer.schedulers.rotating.deadlines import Job
from superinfer.schedulers.rotating.outlook import Outlook
from superinfer.schedulers.rotating.quantum import Quantum, exchange_s, quantum
from superinfer.schedulers.rotating.residents import Residents
from superinfer.sequence import Sequence

NEARLY_DONE_TOKENS: Final = 16
"""Who is expected to end within so many tokens stays."""
FEWEST_ROTATIONS: Final = 4
"""Everybody may be rotated so often; long answers once per half a base quantum."""


class Rotation:
    """Picks victims, and says how long who leaves has to stay away."""

    def __init__(self, outlook: Outlook, residents: Residents, hysteresis: float) -> None:
        self._outlook = outlook
        self._residents = residents
        self._hysteresis = hysteresis
        self.step = 0
        """Steps of the decode batch so far."""
        self._now = 0.0
        self._live = 0
        self._longest_turn_s: float | None = None
        self._quanta: dict[float, Quantum] = {}

    def begin(self, draft: Draft, live: int) -> None:
        """A new decision, with so many live requests."""
        self.step, self._now, self._live = draft.batch.step, draft.now, live
        self._quanta.clear()

    def slack_s(self, job: Job) -> float:
        """How long a decoding request could do without a token from now on."""
        if job.pace_s < inf:
            credit_s = job.base_s + self.step * job.pace_s - self._now
            return min(credit_s, job.stall_s)
        return min(job.base_s if job.end_due_s < inf else inf, job.stall_s)

    def victim(
        self,
        draft: Draft,
        away_s: float,
        chosen: Collection[Job] = (),
        *,
        streams_stay: bool = False,
    ) -> Job | None:
        """Who has most slack of those for whom a rotation pays and who can stay away for `away_s`,
        `chosen` ones not counted, nor with `streams_stay` those that are owed a pace.
        """

        def eligible(job: Job, slack_s: float) -> bool:
            if job in chosen or slack_s < away_s or (streams_stay and job.pace_s < inf):
                return False
            return self._may_leave(draft, job, slack_s)

        return self._residents.most_slack(self.slack_s, eligible)

    def turn_s(self, draft: Draft) -> float:
        """How long who leaves for another has to stay away at least, for the link to keep up."""
        return exchange_s(self._resident_s(draft))

    @property
    def longest_turn_s(self) -> float:
        """How long that is at most: when memory is full."""
        if self._longest_turn_s is None:
            draft = self._outlook.draft
            self._longest_turn_s = exchange_s(draft.copy_s(draft.pool.size, "h2d"))
        return self._longest_turn_s

    def any_victim(self) -> Job | None:
        """Who has most slack, whether it pays or not."""
        return self._residents.most_slack(self.slack_s, lambda job, slack_s: True)

    def quantum(self, job: Job) -> Quantum:
        """How long a request of this kind keeps its place."""
        found = self._quanta.get(job.stall_s)
        if found is None:
            found = self._quanta[job.stall_s] = self._new_quantum(job)
        return found

    # -- inside ---------------------------------------------------------------------------------

    def _new_quantum(self, job: Job) -> Quantum:
        draft = self._outlook.draft
        size = max(1, draft.batch.size)
        return quantum(
            step_s=self._outlook.step_s,
            resident_s=self._resident_s(draft),
            copy_s=2 * draft.copy_s(draft.pool.taken // size, "d2h"),
            stall_s=job.stall_s,
            turns=self._live / size,
        )

    def _resident_s(self, draft: Draft) -> float:
        return draft.copy_s(draft.pool.taken, "h2d")

    def _return_s(self, draft: Draft, seq: Sequence) -> float:
        """What leaving and coming back takes, in the cheaper way."""
        if draft.offload_loses(seq):
            return self._outlook.prefill_s(draft.batch.length(seq))
        return draft.swap_s(seq)

    def _may_leave(self, draft: Draft, job: Job, slack_s: float) -> bool:
        seq = job.seq
        turn = self.quantum(job)
        if self.step - job.join_step < turn.residence_tokens or not draft.host_fits(seq):
            return False
        kept_s = self._hysteresis * job.stall_s if job.stall_s < inf else 0.0
        if slack_s <= kept_s + self._return_s(draft, seq) + self._outlook.step_s:
            return False
        given = draft.batch.output_tokens(seq)
        left = self._outlook.tokens_left(job, given)
        most = max(FEWEST_ROTATIONS, 2 * (given + left) // turn.base_tokens)
        return left > NEARLY_DONE_TOKENS and seq.rotations < most
