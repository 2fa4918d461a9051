"""The rotating scheduler: who computes, from slack, levels and quanta."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from operator import attrgetter

from mypy_extensions import mypyc_attr

from superinfer.costs.base import Chunk
from superinfer.costs.capacity import LargestStep
from superinfer.draft import Draft
from superinfer.schedulers.base import Machine
from superinfer.schedulers.parts import step_within
from superinfer.schedulers.paying import PayingChunks
from superinfer.schedulers.rotating.admission import Admission
from superinfer.schedulers.rotating.aging import AgedShare
from superinfer.schedulers.rotating.answers import AnswersDue
from superinfer.schedulers.rotating.chunks import ChunkChoice
from superinfer.schedulers.rotating.counters import Counters
from superinfer.schedulers.rotating.deadlines import Job, job_of
from superinfer.schedulers.rotating.debts import Debts
from superinfer.schedulers.rotating.device import OnDevice
from superinfer.schedulers.rotating.entrance import Entrance
from superinfer.schedulers.rotating.lengths import LengthEstimator, TrueLength, estimator_of
from superinfer.schedulers.rotating.outlook import Outlook
from superinfer.schedulers.rotating.rotation import Rotation
from superinfer.schedulers.rotating.settings import Settings
from superinfer.schedulers.rotating.tenants import TenantCounters
from superinfer.schedulers.rotating.urgency import Urgency
from superinfer.schedulers.rotating.waiting import Waiting
from superinfer.schedulers.rotating.writing import WriteThrough
from superinfer.sequence import Sequence, State


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class RotatingScheduler(Settings):
    """Time slices by slack: docs/scheduler.md tells how the parts work together."""

    name: str = field(default_factory=lambda: "rotating", init=False)
    block_tokens: int = field(default_factory=lambda: 32, init=False)
    copies_per_block: int = field(default_factory=lambda: 1, init=False)
    counters: Counters = field(default_factory=Counters, init=False)

    _true_length: TrueLength | None = field(default_factory=lambda: None, init=False, repr=False)
    _jobs: dict[Sequence, Job] = field(default_factory=dict, init=False, repr=False)
    _answers_due: int = field(default_factory=int, init=False, repr=False)
    """Live requests whose answer has a deadline."""
    _arrived: list[Job] = field(default_factory=list, init=False, repr=False)
    """To be queued at the next decision."""
    _estimator: LengthEstimator = field(init=False, repr=False)
    _chunks: ChunkChoice = field(init=False, repr=False)
    _paying: PayingChunks = field(init=False, repr=False)
    _outlook: Outlook = field(init=False, repr=False)
    _tenants: TenantCounters = field(default_factory=TenantCounters, init=False, repr=False)
    _aged: AgedShare = field(init=False, repr=False)
    _waiting: Waiting = field(init=False, repr=False)
    _device: OnDevice = field(init=False, repr=False)
    _admission: Admission = field(init=False, repr=False)
    _rotation: Rotation = field(init=False, repr=False)
    _entrance: Entrance = field(init=False, repr=False)
    _urgency: Urgency = field(init=False, repr=False)
    _writes: WriteThrough = field(init=False, repr=False)
    _version: int = field(default_factory=int, init=False)
    """`OnDevice.version` at the last decision."""
    _changed: bool = field(default_factory=bool, init=False)
    """True if somebody came or went since the decision before."""
    _paced: bool = field(default_factory=bool, init=False)
    """True if a resident's pace bounds the chunks of this step."""
    _repeated: tuple[Job, int] | None = field(default_factory=lambda: None, init=False)
    """Whose chunk the latest slice repeats, and its computed tokens after the first."""
    _full_rate: float = field(default_factory=float, init=False)
    """Prompt tokens/s of whole budgets with nothing beside them."""

    # -- protocol -------------------------------------------------------------------------------

    def largest_step(self, max_model_len: int, prefix_caching: bool) -> LargestStep:
        """A whole budget."""
        return step_within(self.max_num_batched_tokens, self.max_num_seqs)

    def bind(self, machine: Machine) -> None:
        """Learn the machine."""
        self.check()
        if self.layout == "layer_first":
            self.copies_per_block = 2 * machine.layers
        self._estimator = estimator_of(self.lengths, self._true_length, self.length_scale)
        cost, budget = machine.cost, self.max_num_batched_tokens
        self._full_rate = budget / (cost.step_s([Chunk(budget, 0)], 0, 0) + cost.host_s(1))
        kv_tokens = machine.total_blocks * machine.block_tokens
        self._paying = PayingChunks(cost, budget, self.tile_tokens, self.max_num_seqs, kv_tokens)
        self._outlook = Outlook(machine, self._estimator, self.max_num_batched_tokens)
        self._aged = AgedShare(self.aged_share, self.max_wait_s, self.fairness)
        answers = AnswersDue(self, self._outlook)
        self._waiting = Waiting(self, self._outlook, self._tenants, self._aged, answers)
        self._admission = Admission(machine, self._estimator, self.memory_share)
        debts = Debts(self._outlook, self.pace_margin)
        self._device = OnDevice(self._outlook, self._admission, self._tenants, self._aged, debts)
        self._rotation = Rotation(self._outlook, self._device.residents, self.hysteresis)
        self._entrance = Entrance(
            self,
            self._outlook,
            self._waiting,
            self._device,
            self._rotation,
            self._admission,
            self.counters,
        )
        parts = (self._outlook, self._waiting, self._device, self._entrance)
        self._urgency = Urgency(self, *parts, self.counters)
        self._chunks = ChunkChoice(self, cost, self._outlook, self._device, self._urgency)
        self._writes = WriteThrough(self.write_through and self.rotation, self._outlook)

    def tell_lengths(self, true_length: TrueLength) -> None:
        """Before `bind`: what `lengths = "oracle"` answers with. Only a simulation can know it."""
        self._true_length = true_length

    def submit(self, seq: Sequence, now: float) -> None:
        """Take note; the next decision queues it."""
        job = job_of(seq, self._estimator)
        self._jobs[seq] = job
        self._answers_due += job.end_due_s < inf
        self._tenants.arrive(seq.request.tenant)
        self._arrived.append(job)

    def plan(self, draft: Draft, now: float) -> None:
        """Wake who is due, make room for the urgent, fill the step with prefill, decode."""
        draft.full_duplex = self.full_duplex
        self._observe(draft)
        self._wake(draft)
        disturbed = self._entrance.make_room_for_growth(draft)
        budget = self._prefill_budget(draft)
        if not disturbed and self._one_prefill_takes_all(draft, budget):
            self._urgency.rest()
            self._writes.decide(draft, self._somebody_waits)
            return
        if self._somebody_waits:
            reserved = 0 if disturbed else self._urgency.serve(draft)
            self._fill(draft, budget, admit=not (disturbed or reserved))
        else:
            self._urgency.rest()
            if self._device.prefilling:
                self._fill(draft, budget, admit=False)
        if draft.batch.size:
            self._entrance.look_ahead(draft)
            steady = not (disturbed or draft.chunks or draft.changes)
            draft.decode(self._steps(draft) if steady else 1, until=self._until(now))
            self._writes.decide(draft, self._somebody_waits)

    def swapped_out(self, seq: Sequence) -> None:
        """Its blocks are free, and it can come back."""
        self._arrived.append(self._jobs[seq])

    def resumed(self, seq: Sequence) -> None:
        """It is back on the device."""
        self._device.settle_in(self._jobs[seq])

    def ended(self, seq: Sequence) -> None:
        """Forget it and learn from its length."""
        if self._repeated is not None and self._repeated[0].seq is seq:
            self._count_repeats(*self._repeated)
        job = self._jobs.pop(seq)
        self._answers_due -= job.end_due_s < inf
        job.ticket = -1
        self._device.take_off(job, max(job.join_step, seq.last_token_step + 1))
        self._tenants.leave(seq.request.tenant)
        self._admission.end_stream(job)
        self._waiting.forget(job)
        if seq.outcome == "finished":
            self._estimator.learn(seq.request, seq.output_tokens)
            computed = seq.request.prompt_tokens - seq.cached_tokens
            self._paying.learn(computed, seq.output_tokens)

    def next_wakeup(self, now: float) -> float | None:
        """The next promotion, relegation or aging."""
        time_s = self._until(now)
        return None if time_s == inf else time_s

    def may_swap_out(self, seq: Sequence) -> bool:
        """True if it could stay away long enough for somebody else to use its place."""
        return self._jobs[seq].stall_s >= self._rotation.longest_turn_s

    @property
    def _somebody_waits(self) -> bool:
        """True if somebody has no place on the device."""
        return len(self._jobs) > self._device.places

    # -- what happened since the last decision --------------------------------------------------

    def _observe(self, draft: Draft) -> None:
        """Queue who arrived, let those decode who are ready, lower those who used their turn."""
        self._rotation.begin(draft, len(self._jobs))
        self._entrance.held_back = False
        self._outlook.begin(draft)
        if self._repeated is not None:
            self._count_repeats(*self._repeated)
        self._tenants.lift(draft.batch.step)
        for job in self._device.begin_decoding(draft):
            if self.demotion:
                self._start_quantum(job)
        version, self._version = self._version, self._device.version
        self._changed = version != self._version
        arrived, self._arrived = self._arrived, []
        if arrived or self._changed:
            self._waiting.fair_step = draft.batch.step
        for job in arrived:
            if job.ticket >= 0 and not job.placed:
                self._waiting.add(job, draft.now)
        if self.demotion:
            self._demote(draft)

    def _start_quantum(self, job: Job) -> None:
        tokens = self._rotation.quantum(job).base_tokens << job.level
        self._device.start_quantum(job, self._rotation.step + tokens)

    def _demote(self, draft: Draft) -> None:
        """One level down for who used its quantum, unless its slack says otherwise."""
        while (job := self._device.quantum_used(draft.batch.step)) is not None:
            if self._rotation.slack_s(job) > self._waiting.bound_s(job, job.level):
                self._device.residents.demote(job)
                self.counters.add("demotions")
                draft.note("demote", job.seq)
            self._start_quantum(job)

    def _wake(self, draft: Draft) -> None:
        while (job := self._waiting.promote(draft.now)) is not None:
            self.counters.add("promotions")
            draft.note("promote", job.seq)
        while self._waiting.age(draft.now) is not None:
            self.counters.add("aged")

    def _steps(self, draft: Draft) -> int:
        """Steps for which this decision stands if nothing happens."""
        if self._urgency.blocked or (self._somebody_waits and self._changed):
            return 1  # any step may let a resident leave; the next one frees what has left
        steps = self._entrance.steps_unforeseen(draft)
        steps = min(steps, self._device.steps_in_quanta(draft.batch.step))
        return min(steps, self._writes.steps(draft, self._somebody_waits))

    def _until(self, now: float) -> float:
        """When this decision should be thought over though nothing has happened."""
        time_s = min(self._waiting.next_s(now), self._urgency.blocked_until_s)
        time_s = min(time_s, self._entrance.prefetch_from_s if self._entrance.held_back else inf)
        return time_s if time_s > now else inf

    # -- prefill --------------------------------------------------------------------------------

    def _prefill_budget(self, draft: Draft) -> int:
        """Prefill tokens of this step: no resident stream may miss its pace because of them. Where
        none is resident and answers have deadlines, as many as get most of them through; where
        nobody is owed either, first tokens come first.
        """
        budget = max(1, self.max_num_batched_tokens - draft.batch.size)
        paces_s = self._device.residents.paces_s() if self.paced_chunks else []
        self._paced = bool(paces_s)
        if paces_s:
            budget = self._chunks.tokens(draft, paces_s, budget)
        elif self._answers_due and self.paying_chunks and not self._device.residents.paced:
            budget = self._paying.tokens(draft.batch.size)
        self._outlook.chunk_tokens = budget
        return budget

    def _one_prefill_takes_all(self, draft: Draft, budget: int) -> bool:
        """The long middle of a prompt, as a short cut: every decode gets its token, and the one
        prefill under way, before which nobody comes, takes the whole budget again and again.
        """
        prefilling = self._device.prefilling
        if len(prefilling) != 1 or self._paced or self._outlook.machine.prefix_caching:
            return False
        job = prefilling[0]
        seq = job.seq
        repeats = (seq.prefill_tokens - seq.computed_tokens - 1) // budget
        if repeats < 2 or not draft.batch.size or not self._comes_first(draft, job):
            return False
        steps = min(repeats, self._steps(draft))
        if steps < 2:
            return False
        self._prefill(draft, job, budget, steps)
        self._repeated = job, seq.computed_tokens + budget
        draft.decode(steps, until=self._until(draft.now))
        return True

    def _comes_first(self, draft: Draft, job: Job) -> bool:
        """True if nobody can come in before a prefill is through, if no alarm goes off."""
        if not self._somebody_waits:
            return True
        if job.hurried or self._waiting.may_overtake(job):
            return False
        head = self._waiting.head(draft.now)
        return head is None or (not head.hurried and job.order < head.order)

    def _count_repeats(self, job: Job, counted_tokens: int) -> None:
        """Book the chunks of a slice that came after its first."""
        self._repeated = None
        tokens = job.seq.computed_tokens - counted_tokens
        if tokens > 0:
            self._tenants.prefilled(job.seq.request.tenant, tokens)
            self._aged.count(job, tokens, self._full_rate)

    def _fill(self, draft: Draft, budget: int, admit: bool) -> None:
        """Chunks for unfinished prefills and for new requests, the most urgent first. A stream that
        comes back has a token of the step, too.
        """
        budget = min(budget, self._room(draft))
        kept = 0
        if self._device.aged_prefill:
            kept = self._aged.tokens_kept(budget)
        budget -= kept
        first = self._aged_in_order()[0] if kept else None  # what is kept is for it
        unfinished = iter(list(self._device.prefilling))
        current = next(unfinished, None)
        while budget > 0:
            head = self._waiting.head(draft.now) if admit else None
            if current is not None and (head is None or current.order < head.order):
                if current.seq.state is State.PREFILLING and current.placed:
                    own = kept if current is first else 0
                    tokens = self._prefill(draft, current, budget + own)
                    kept -= min(own, tokens)
                    budget -= max(0, tokens - own)
                current = next(unfinished, None)
            elif head is None:
                break
            elif (admit := self._admit(draft, head)) and head.seq.state is State.PREFILLING:
                budget -= self._prefill(draft, head, budget)
            else:
                budget = min(budget, self._room(draft) - kept)
        if kept:
            self._fill_aged(draft, budget + kept)

    def _room(self, draft: Draft) -> int:
        """Tokens that there still is room for in this step."""
        taken = draft.batch.size + sum(chunk.tokens for chunk in draft.chunks)
        return self.max_num_batched_tokens - taken

    def _admit(self, draft: Draft, head: Job) -> bool:
        """Let the next one in; False if it has to wait, and with it all behind it but one."""
        if self._entrance.admit(draft, head):
            return True
        if self._entrance.yields(draft, head) and (away := self._waiting.away) is not None:
            self._entrance.admit(draft, away)
            return False
        if head.late and (other := self._waiting.behind_late()) is not None:
            self._entrance.admit(draft, other)
        return False

    def _fill_aged(self, draft: Draft, budget: int) -> None:
        """What was kept for aged requests, in the order in which they came in: what makes one more
        urgent than another does not count here.
        """
        chunked = {chunk.sequence for chunk in draft.chunks}
        for job in self._aged_in_order():
            if budget > 0 and job.seq not in chunked:
                budget -= self._prefill(draft, job, budget)

    def _aged_in_order(self) -> list[Job]:
        """Aged requests with prompt tokens left, by when they came in."""
        aged = [job for job in self._device.prefilling if job.aged]
        return sorted(aged, key=attrgetter("ticket"))

    def _prefill(self, draft: Draft, job: Job, budget: int, steps: int = 1) -> int:
        """A chunk of at most `budget` tokens, the same in each of `steps`; returns its tokens."""
        seq = job.seq
        left = seq.prefill_tokens - seq.computed_tokens
        tokens = min(left, budget)
        draft.prefill(seq, tokens, steps=steps)
        self._tenants.prefilled(seq.request.tenant, tokens)
        self._aged.count(job, tokens, self._full_rate)
        if tokens == left:
            job.since_s = draft.now
            self._device.prefilled(job)
        return tokens
