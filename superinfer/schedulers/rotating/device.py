"""Who is on the device, or on the way in: prefilling, about to decode, decoding."""

from __future__ import annotations

import heapq
from bisect import insort
from itertools import count
from operator import attrgetter

from superinfer.draft import MAX_STEPS, Draft
from superinfer.schedulers.rotating.admission import Admission
from superinfer.schedulers.rotating.aging import AgedShare
from superinfer.schedulers.rotating.deadlines import Job
from superinfer.schedulers.rotating.debts import Debts
from superinfer.schedulers.rotating.outlook import Outlook
from superinfer.schedulers.rotating.queues import LEVELS
from superinfer.schedulers.rotating.residents import Residents
from superinfer.schedulers.rotating.tenants import TenantCounters
from superinfer.sequence import State

_order = attrgetter("order")


class OnDevice:
    """Places, and what each of them is used for; tells the ledgers who came and went."""

    def __init__(
        self,
        outlook: Outlook,
        admission: Admission,
        tenants: TenantCounters,
        aged: AgedShare,
        debts: Debts,
    ) -> None:
        self.residents = Residents()
        """Who decodes."""
        self.debts = debts
        """What those who are owed a pace have to spare."""
        self.prefilling: list[Job] = []
        """Who has prompt tokens left, by `Job.order`."""
        self.entering: dict[Job, None] = {}
        """Who has a place and does not decode yet: on the way in, prefilling or about to decode."""
        self.places = 0
        """Requests on the device or on their way in."""
        self.version = 0
        """Counts who came and went."""
        self._joining: list[Job] = []
        self._quanta: list[tuple[int, int, Job, int]] = []
        """End step, entry, job, and the join step of the stay that it belongs to."""
        self._entries = count()
        self._outlook = outlook
        self._admission = admission
        self._tenants = tenants
        self._aged = aged

    @property
    def aged_prefill(self) -> bool:
        """True if a prompt of an aged request is being computed."""
        return any(job.aged for job in self.prefilling)

    @property
    def prefilled_tokens(self) -> int:
        """Where the first of the prefills under way goes on."""
        return self.prefilling[0].seq.computed_tokens if self.prefilling else 0

    @property
    def prompt_tokens(self) -> int:
        """What is left of the prefills under way."""
        return sum([job.tokens_to_compute for job in self.prefilling])

    def take_place(self, job: Job, blocks: int) -> None:
        """A request comes in, with so many blocks."""
        self.places += 1
        self.version += 1
        self.entering[job] = None
        self._admission.begin_stream(job)
        if job.aged:
            self._aged.takes(job, blocks)

    def take_off(self, job: Job, step: int) -> None:
        """A request leaves the device, or the way to it, at a step of the decode batch."""
        if not job.placed:
            return
        job.placed = False
        self.places -= 1
        self.version += 1
        self.entering.pop(job, None)
        self._aged.gives_back(job)
        if job.decoding:
            job.decoding = False
            self._admission.left(job)
            self.residents.remove(job)
            self.debts.remove(job)
            self._tenants.left(job.seq.request.tenant, job.join_step, step - job.join_step)
        elif job in self.prefilling:
            self.prefilling.remove(job)

    def settle_in(self, job: Job) -> None:
        """Its cache is there: it goes on with its prefill, or decodes from the next step on."""
        prefilling = self.prefilling
        if job.seq.state is not State.PREFILLING:
            self._joining.append(job)
        elif not prefilling:
            prefilling.append(job)
        else:
            insort(prefilling, job, key=_order)

    def prefilled(self, job: Job) -> None:
        """Its last chunk is planned."""
        self.prefilling.remove(job)
        self._joining.append(job)

    def begin_decoding(self, draft: Draft) -> list[Job]:
        """Let those decode who became ready since the last decision and have not ended; returns
        them.
        """
        joining, self._joining = self._joining, []
        joined = [job for job in joining if job.seq.state is State.DECODING]
        for job in joined:
            del self.entering[job]
            job.base_s = self._outlook.base_s(job, draft.now)
            job.join_step, job.decoding = job.seq.join_step, True
            self._admission.joined(job, draft)
            self.residents.add(job)
            self.debts.add(job)
            self._tenants.joined(job.seq.request.tenant, job.join_step)
        return joined

    def start_quantum(self, job: Job, end_step: int) -> None:
        """The turn of a decoding request ends at a step of the batch."""
        if job.level < LEVELS - 1:
            heapq.heappush(self._quanta, (end_step, next(self._entries), job, job.join_step))

    def steps_in_quanta(self, step: int) -> int:
        """Steps until the next turn ends, once those that have ended are taken out."""
        quanta = self._quanta
        while quanta and not _stays(*quanta[0][2:]):
            heapq.heappop(quanta)
        return quanta[0][0] - step if quanta else MAX_STEPS

    def quantum_used(self, step: int) -> Job | None:
        """The next decoding request whose turn has ended by a step."""
        quanta = self._quanta
        while quanta and quanta[0][0] <= step:
            _, _, job, join_step = heapq.heappop(quanta)
            if _stays(job, join_step):
                return job
        return None


def _stays(job: Job, join_step: int) -> bool:
    """True if a job still decodes since that step."""
    return job.decoding and job.join_step == join_step
