"""The rotating scheduler: who computes, from slack, levels and quanta."""

from __future__ import annotations

import heapq
from bisect import insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from math import inf
from operator import attrgetter

from superinfer.draft import MAX_STEPS, Draft
from superinfer.memory.base import Timing
from superinfer.schedulers.base import Machine
from superinfer.schedulers.pacing import GRAIN_TOKENS, ChunkSizer
from superinfer.schedulers.parts import check_limits
from superinfer.schedulers.rotating.admission import Admission
from superinfer.schedulers.rotating.deadlines import Job, job_of
from superinfer.schedulers.rotating.lengths import (
    MEDIAN,
    HistogramLengths,
    LengthEstimator,
    LengthSource,
    NoLengths,
)
from superinfer.schedulers.rotating.outlook import Outlook
from superinfer.schedulers.rotating.queues import LEVELS, Alarms, LaxityQueues, TenantQueues
from superinfer.schedulers.rotating.residents import Residents
from superinfer.schedulers.rotating.rotation import Rotation
from superinfer.schedulers.rotating.tenants import TenantCounters
from superinfer.schedulers.rotating.triage import Work, given_up
from superinfer.sequence import Sequence, State

URGENT_AT_ONCE = 8
"""Urgent requests for which one decision makes room."""
TRIAGED_AT_ONCE = 32
"""Urgent requests among whom one decision chooses when not all can be in time."""
LATEST_TURN = 2
LOOKAHEAD_STEPS = 8
"""Somebody leaves in the background when the decodes run out of blocks within so many steps."""

_order = attrgetter("order")


@dataclass(slots=True)
class RotatingScheduler:
    """Time slices by slack: docs/scheduler.md tells how the parts work together."""

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    """Token budget of a step when no stream's pace bounds it (Sarathi-Serve's relaxed value)."""
    watermark: float = 0.01
    """Share of the blocks that admission leaves free."""
    tile_tokens: int = 128
    """Chunks fill the tiles of the matrix products (pacing.py); 0: multiples of 64 tokens."""
    pace_margin: float = 0.95
    """Share of the tightest pace among resident streams that a step may take."""
    promotion_margin_s: float = 0.3
    """A first token is urgent so long before its latest start, plus two steps and a copy."""
    promotion_share: float = 1.0
    """The same as a share of its target; the larger one counts."""
    relegation_margin_s: float = 0.0
    """Who has less slack than this for its first token and finds no room is not waited for."""
    hysteresis: float = 0.2
    """Share of its tolerated stall that a victim keeps as slack."""
    level_steps: int = 8
    """Unit of the level bounds, in steps: 4 units of slack for level 1, 16 for level 2."""
    max_wait_s: float = 30.0
    """Who waits so long without a token, and `max_wait_ttfts` TTFT targets, is aged."""
    max_wait_ttfts: float = 6.0
    aged_share: float = 0.1
    """Share of blocks and prefill tokens kept for aged requests."""
    lengths: LengthSource = "histogram"
    """How answer lengths are predicted; `oracle` is for studies."""
    rotation: bool = True
    promotion: bool = True
    demotion: bool = True
    skip_join: bool = True
    prefetch: bool = True
    relegation: bool = True
    paced_chunks: bool = True
    admission: bool = True
    aging: bool = True
    fairness: bool = True
    name: str = field(default="rotating", init=False)
    block_tokens: int = field(default=32, init=False)
    copies_per_block: int = field(default=1, init=False)

    machine: Machine = field(init=False)
    estimator: LengthEstimator = field(init=False)
    counters: dict[str, float] = field(default_factory=dict, init=False)
    """How often each mechanism acted; goes into the summary."""
    _jobs: dict[Sequence, Job] = field(default_factory=dict, init=False)
    _arrived: list[Job] = field(default_factory=list, init=False)
    """To be queued at the next decision."""
    _joining: list[Job] = field(default_factory=list, init=False)
    """Decode from the next decision on."""
    _prefilling: list[Job] = field(default_factory=list, init=False)
    """By `Job.order`."""
    _residents: Residents = field(default_factory=Residents, init=False)
    _laxity: LaxityQueues = field(default_factory=LaxityQueues, init=False)
    _others: TenantQueues = field(init=False)
    _aged: deque[Job] = field(default_factory=deque, init=False)
    _crossings: Alarms = field(default_factory=Alarms, init=False)
    _agings: Alarms = field(default_factory=Alarms, init=False)
    _quanta: list[tuple[int, int, Job]] = field(default_factory=list, init=False)
    """Heap of the batch steps at which quanta are used up."""
    _tenants: TenantCounters = field(default_factory=TenantCounters, init=False)
    _tickets: Iterator[int] = field(default_factory=count, init=False)
    _sizer: ChunkSizer = field(init=False)
    _outlook: Outlook = field(init=False)
    _admission: Admission = field(init=False)
    _rotation: Rotation = field(init=False)
    _keep_free: int = field(default=0, init=False)
    _places: int = field(default=0, init=False)
    """Requests on the device or on their way in."""
    _version: int = field(default=0, init=False)
    """Counts who came and went."""
    _aged_blocks: int = field(default=0, init=False)
    _served_tokens: float = field(default=0.0, init=False)
    """Prefill of those without a deadline, less the share of the aged; bounded both ways."""
    _blocked_until_s: float = field(default=inf, init=False)
    """When waiting for room for an urgent request stops making sense."""

    def __post_init__(self) -> None:
        self._others = TenantQueues(self._tenants, self.fairness)
        self.estimator = HistogramLengths() if self.lengths == "histogram" else NoLengths()

    # -- protocol -------------------------------------------------------------------------------

    def bind(self, machine: Machine) -> None:
        """Learn the machine."""
        check_limits(self.max_num_seqs, self.max_num_batched_tokens, self.watermark)
        self.machine = machine
        self._keep_free = int(self.watermark * machine.total_blocks)
        self._sizer = ChunkSizer(machine.cost, self.tile_tokens)
        self._outlook = Outlook(machine, self.estimator, self.max_num_batched_tokens)
        self._admission = Admission(machine, self.estimator)
        self._rotation = Rotation(self._outlook, self._residents, self.hysteresis)

    def submit(self, seq: Sequence, now: float) -> None:
        """Take note; the next decision queues it."""
        job = job_of(seq, self.estimator.tokens_left(seq.request, 0, MEDIAN))
        self._jobs[seq] = job
        self._tenants.arrive(seq.request.tenant, self._rotation.step)
        self._arrived.append(job)

    def plan(self, draft: Draft, now: float) -> None:
        """Wake who is due, make room for the urgent, fill the step with prefill, decode."""
        self._observe(draft, now)
        self._wake(draft, now)
        disturbed = self._make_room_for_growth(draft, now)
        budget = self._prefill_budget(draft)
        reserved = 0 if disturbed else self._serve_urgent(draft, now)
        self._fill(draft, now, budget, admit=not (disturbed or reserved))
        if draft.batch.size:
            self._look_ahead(draft, now)
            steady = not (disturbed or draft.chunks or draft.changes)
            draft.decode(MAX_STEPS if steady else 1, until=self._until(now))

    def swapped_out(self, seq: Sequence) -> None:
        """Its blocks are free, and it can come back."""
        self._rotation.left(seq)
        self._arrived.append(self._jobs[seq])

    def resumed(self, seq: Sequence) -> None:
        """It is back on the device."""
        self._settle_in(self._jobs[seq])

    def ended(self, seq: Sequence) -> None:
        """Forget it and learn from its length."""
        job = self._jobs.pop(seq)
        job.ticket = -1
        self._take_off(job)
        self._rotation.left(seq)
        if job in self._joining:
            self._joining.remove(job)
        self._tenants.leave(seq.request.tenant)
        self._admission.end_stream(job)
        if seq.outcome == "finished":
            self.estimator.learn(seq.request, seq.output_tokens)

    def next_wakeup(self, now: float) -> float | None:
        """The next promotion, relegation or aging."""
        time_s = self._until(now)
        return None if time_s == inf else time_s

    # -- what happened since the last decision --------------------------------------------------

    def _observe(self, draft: Draft, now: float) -> None:
        """Queue who arrived, let those decode who are ready, lower those who used their turn."""
        self._rotation.begin(draft, now, len(self._jobs))
        self._outlook.begin(draft)
        joining, self._joining = self._joining, []
        for job in joining:
            self._join(draft, job, now)
        arrived, self._arrived = self._arrived, []
        for job in arrived:
            if job.ticket >= 0 and not job.placed:
                self._enqueue(job, now)
        self._demote(draft, now)

    def _join(self, draft: Draft, job: Job, now: float) -> None:
        if job.seq.state is not State.DECODING:
            return
        job.base_s = self._outlook.base_s(job, now)
        job.join_step, job.decoding = job.seq.join_step, True
        self._admission.joined(job, draft)
        self._residents.add(job)
        self._tenants.joined(job.seq.request.tenant, job.join_step)
        if self.demotion and job.level < LEVELS - 1:
            self._start_quantum(job)

    def _settle_in(self, job: Job) -> None:
        """On the device again: to decode, or to go on with its prefill."""
        if job.seq.state is State.PREFILLING:
            insort(self._prefilling, job, key=_order)
        else:
            self._joining.append(job)

    def _enqueue(self, job: Job, now: float) -> None:
        """Queue a request that is off the device."""
        free = job.relegated or not job.owes
        job.start_by_s = inf if free else self._outlook.latest_start_s(job)
        job.level = self._level(job, now)
        self._requeue(job, now)
        if self.aging and not job.aged:
            wait_s = max(self.max_wait_s, self.max_wait_ttfts * (job.seq.request.slo.ttft_s or 0.0))
            self._agings.set(job.since_s + wait_s, job)

    def _requeue(self, job: Job, now: float) -> None:
        job.ticket = next(self._tickets)
        if job.aged:
            self._aged.append(job)
        elif job.start_by_s == inf:
            self._others.push(job)
        else:
            self._laxity.push(job)
            if self.promotion and job.level:
                self._crossings.set(job.start_by_s - self._bound_s(job, job.level - 1), job)

    def _level(self, job: Job, now: float) -> int:
        """The level that the slack implies; without skip-join the new ones enter at the top."""
        if job.start_by_s == inf:
            return LEVELS - 1
        if not (self.skip_join or job.seq.output_tokens):
            return 0
        slack_s = job.start_by_s - now
        levels = range(LEVELS - 1)
        return next((i for i in levels if slack_s < self._bound_s(job, i)), LEVELS - 1)

    def _bound_s(self, job: Job, level: int) -> float:
        """Slack below which a request belongs to a level."""
        urgent_s = self._outlook.reaction_s(job)
        if not job.seq.output_tokens:
            ttft_s = job.seq.request.slo.ttft_s or 0.0
            urgent_s += max(self.promotion_margin_s, self.promotion_share * ttft_s)
        unit_s = self.level_steps * self._outlook.step_s
        return (urgent_s, max(urgent_s, 4 * unit_s), max(urgent_s, 16 * unit_s))[level]

    # -- promotion, demotion, aging -------------------------------------------------------------

    def _wake(self, draft: Draft, now: float) -> None:
        while (job := self._crossings.due(now)) is not None:
            job.level -= 1
            self._requeue(job, now)
            self._count("promotions")
            draft.note("promote", job.seq)
        while (job := self._agings.due(now)) is not None:
            job.aged = True
            self._requeue(job, now)
            self._count("aged")

    def _start_quantum(self, job: Job) -> None:
        tokens = self._rotation.quantum(job).base_tokens << job.level
        heapq.heappush(self._quanta, (self._rotation.step + tokens, next(self._tickets), job))

    def _demote(self, draft: Draft, now: float) -> None:
        """One level down for who used its quantum, unless its slack says otherwise."""
        quanta, step = self._quanta, self._rotation.step
        while quanta and quanta[0][0] <= step:
            job = heapq.heappop(quanta)[2]
            if not job.decoding or job.level >= LEVELS - 1:
                continue
            if self._rotation.slack_s(job) > self._bound_s(job, job.level):
                self._residents.demote(job)
                self._count("demotions")
                draft.note("demote", job.seq)
            self._start_quantum(job)

    # -- room -----------------------------------------------------------------------------------

    def _make_room_for_growth(self, draft: Draft, now: float) -> bool:
        """Preempt at once until every decode finds its next block."""
        disturbed = False
        while draft.available < draft.batch.next_growth():
            job = self._rotation.any_victim() or self._prefilling[-1]
            self._take_off(job)
            cheap = draft.host_fits(job.seq) and draft.swap_s(job.seq) < draft.recompute_s(job.seq)
            draft.preempt(job.seq, "swap" if cheap else "recompute")
            job.since_s = now
            if job.seq.state in (State.WAITING, State.SWAPPED):
                self._enqueue(job, now)
            self._count("forced_preemptions")
            disturbed = True
        return disturbed

    def _look_ahead(self, draft: Draft, now: float) -> None:
        """Let somebody leave beside the computation before the decodes run out of blocks."""
        batch, room = draft.batch, draft.available
        if (
            not self.rotation
            or batch.size < 2
            or batch.steps_within(room, LOOKAHEAD_STEPS) == LOOKAHEAD_STEPS
        ):
            return
        if batch.growth(LOOKAHEAD_STEPS) > room + self._rotation.leaving_blocks:
            job = self._rotation.victim(draft, now)
            if job is not None:
                self._rotate_out(draft, job, now, "background")

    def _serve_urgent(self, draft: Draft, now: float) -> int:
        """Take in urgent requests, rotating others out; returns blocks kept for those that wait."""
        self._blocked_until_s = inf
        reserved, blocked = 0, []
        if self.relegation:
            self._give_up(draft, now)
        for _ in range(URGENT_AT_ONCE):
            job = self._laxity.head(now)
            if job is None or job.level:
                break
            if self._take_in(draft, job, now, reserved):
                continue
            if self._is_hopeless(job, now) or not self._rotate_for(draft, job, now, reserved):
                if self._is_hopeless(job, now):
                    self._relegate(draft, job, now)
                    continue
                self._laxity.pop(job)
                blocked.append(job)
                break
            if self._take_in(draft, job, now, reserved):
                continue
            self._laxity.pop(job)
            blocked.append(job)
            reserved += self._need(draft, job)
        for job in blocked:
            self._laxity.push(job)
            self._blocked_until_s = min(self._blocked_until_s, self._hopeless_from_s(job))
        return reserved

    def _give_up(self, draft: Draft, now: float) -> None:
        """Relegate whom the first tokens of the others cannot wait for."""
        begun = [job for job in self._prefilling if job.start_by_s < inf]
        urgent: list[Job] = []
        while len(urgent) < TRIAGED_AT_ONCE and (job := self._laxity.head(now)) and not job.level:
            self._laxity.pop(job)
            urgent.append(job)
        for job in urgent:
            self._laxity.push(job)
        if begun or len(urgent) > 1:
            jobs = sorted([*begun, *urgent], key=attrgetter("first_due_s"))
            for job in given_up((self._work(job, now), job) for job in jobs):
                self._relegate(draft, job, now)

    def _work(self, job: Job, now: float) -> Work:
        seq = job.seq
        work_s = (seq.prefill_tokens - seq.computed_tokens) / self._outlook.prefill_rate
        under_way = job.placed or seq.output_tokens > 0
        return Work(job.first_due_s - now if not seq.output_tokens else inf, work_s, under_way)

    def _rotate_for(self, draft: Draft, job: Job, now: float, reserved: int) -> bool:
        """Make room for an urgent request in this very step; False if nobody can leave."""
        if not self.rotation or self._places >= self.max_num_seqs:
            return False
        if self.admission and self._admission.too_fast(job, draft, self._outlook.step_s):
            return False
        short = self._need(draft, job) + reserved + self._kept(draft)
        short -= draft.available + self._rotation.leaving_blocks
        while short > 0:
            victim = self._rotation.victim(draft, now)
            if victim is None:
                return False
            short -= draft.private_blocks(victim.seq) + draft.grows(victim.seq)
            self._rotate_out(draft, victim, now, "before_step")
        return True

    def _rotate_out(self, draft: Draft, job: Job, now: float, timing: Timing) -> None:
        """Copy a resident to the host."""
        self._take_off(job)
        job.since_s = now
        self._rotation.leave(draft, job, timing)
        if job.seq.state is State.SWAPPED:
            self._enqueue(job, now)
        self._count("rotations")

    def _hopeless_from_s(self, job: Job) -> float:
        """From when on a first token is not waited for; inf for a stream that has begun."""
        if job.seq.output_tokens or not self.relegation:
            return inf
        ttft_s = job.seq.request.slo.ttft_s or inf
        return job.start_by_s - min(self.relegation_margin_s, 0.3 * ttft_s)

    def _is_hopeless(self, job: Job, now: float) -> bool:
        return now >= self._hopeless_from_s(job)

    def _relegate(self, draft: Draft, job: Job, now: float) -> None:
        """Stop hurrying a request whose first token will be late; it is served with the rest."""
        job.relegated = True
        self._enqueue(job, now)
        self._count("relegations")
        draft.note("relegate", job.seq)

    # -- admission and prefill ------------------------------------------------------------------

    def _fill(self, draft: Draft, now: float, budget: int, admit: bool) -> None:
        """Chunks for unfinished prefills and for new requests, the most urgent first."""
        kept = self._aged_tokens(budget)
        budget -= kept
        unfinished = iter(list(self._prefilling))
        current = next(unfinished, None)
        while budget > 0:
            head = self._head(draft, now) if admit else None
            if current is not None and (head is None or current.order < head.order):
                if current.seq.state is State.PREFILLING and current.placed:
                    budget -= self._prefill(draft, current, budget)
                current = next(unfinished, None)
            elif head is None:
                break
            elif not self._admit(draft, head, now):
                admit = False
            elif head.seq.state is State.PREFILLING:
                budget -= self._prefill(draft, head, budget)
        self._fill_aged(draft, budget + kept)

    def _aged_tokens(self, budget: int) -> int:
        """Prefill tokens that are kept for aged requests."""
        if self._served_tokens >= 0 or not any(job.aged for job in self._prefilling):
            return 0
        return min(budget, max(GRAIN_TOKENS, int(self.aged_share * budget)))

    def _fill_aged(self, draft: Draft, budget: int) -> None:
        chunked = {chunk.sequence for chunk in draft.chunks}
        for job in [job for job in self._prefilling if job.aged and job.seq not in chunked]:
            if budget > 0:
                budget -= self._prefill(draft, job, budget)

    def _head(self, draft: Draft, now: float) -> Job | None:
        """The next to come in: the aged while their share lasts, then by slack, then the rest."""
        while self._aged and (self._aged[0].placed or self._aged[0].ticket < 0):
            self._aged.popleft()
        if self._aged and self._served_tokens < 0 and self._aged_fits(draft, self._aged[0]):
            return self._aged[0]
        found = self._laxity.head(now) or self._others.head(self._rotation.step)
        if not self._aged:
            return found
        if found is None or (found.start_by_s == inf and found.turn == LATEST_TURN):
            return self._aged[0]
        return found

    def _aged_fits(self, draft: Draft, job: Job) -> bool:
        share = self.aged_share * draft.pool.total
        return not self._aged_blocks or self._aged_blocks + self._need(draft, job) <= share

    def _admit(self, draft: Draft, job: Job, now: float) -> bool:
        """Take in a request that is not urgent, if what is predicted to grow still fits."""
        if job.since_s == now and job.seq.rotations:
            return False  # it has only just left
        if self.admission and self._places and not job.aged:
            here = (self._residents, self._prefilling, self._version)
            if not self._admission.fits(draft, job, *here):
                return False
        return self._take_in(draft, job, now, 0)

    def _take_in(self, draft: Draft, job: Job, now: float, reserved: int) -> bool:
        """Give a request its blocks, or turn it away for ever; False if it has to wait."""
        seq = job.seq
        if rule := self._never_fits(draft, seq):
            draft.reject(seq, rule)
            return True
        if self._places >= self.max_num_seqs:
            return False
        keep_free = reserved + self._kept(draft)
        if seq.state is State.WAITING:
            if not draft.try_admit(seq, keep_free=keep_free):
                return False
            self._place(draft, job)
            insort(self._prefilling, job, key=_order)
            return True
        return self._bring_back(draft, job, now, keep_free)

    def _bring_back(self, draft: Draft, job: Job, now: float, keep_free: int) -> bool:
        """Copy a request back: ahead of need beside the computation, else before the step."""
        ahead = self.prefetch and now < job.start_by_s
        timing: Timing = "background" if ahead else "before_step"
        spare = 1 if self._places else 0  # for its next token
        nbytes = job.seq.host_blocks
        if not draft.try_swap_in(job.seq, keep_free=keep_free + spare, timing=timing):
            return False
        self._place(draft, job)
        if ahead:
            self._count("prefetched_blocks", nbytes)
            draft.note("prefetch", job.seq)
        else:
            self._settle_in(job)
        return True

    def _place(self, draft: Draft, job: Job) -> None:
        job.placed, job.ticket = True, next(self._tickets)
        self._places += 1
        self._version += 1
        self._admission.begin_stream(job)
        if job.aged:
            job.aged_blocks = self._need(draft, job)
            self._aged_blocks += job.aged_blocks

    def _take_off(self, job: Job) -> None:
        """A request leaves the device, or the way to it."""
        if not job.placed:
            return
        job.placed = job.aged = False
        self._places -= 1
        self._version += 1
        self._aged_blocks -= job.aged_blocks
        job.aged_blocks = 0
        if job.decoding:
            job.decoding = False
            self._admission.left(job)
            self._residents.remove(job)
            tokens = self._rotation.step - job.join_step
            self._tenants.left(job.seq.request.tenant, job.join_step, tokens)
        elif job in self._prefilling:
            self._prefilling.remove(job)

    def _prefill(self, draft: Draft, job: Job, budget: int) -> int:
        """A chunk of at most `budget` tokens; returns its tokens."""
        seq = job.seq
        left = seq.prefill_tokens - seq.computed_tokens
        tokens = min(left, budget)
        draft.prefill(seq, tokens)
        self._tenants.prefilled(seq.request.tenant, tokens)
        self._balance(job, tokens)
        if tokens == left:
            self._prefilling.remove(job)
            self._joining.append(job)
        return tokens

    def _balance(self, job: Job, tokens: int) -> None:
        """Count what those without a deadline get above, or below, the share of the aged."""
        change = -self.aged_share * tokens
        if job.start_by_s == inf:
            change += tokens
        most = self.aged_share * self.max_wait_s * self._outlook.prefill_rate
        self._served_tokens = min(max(self._served_tokens + change, -most), most)

    def _prefill_budget(self, draft: Draft) -> int:
        """Prefill tokens of this step: no resident stream may miss its pace because of them."""
        batch = draft.batch
        budget = max(1, self.max_num_batched_tokens - batch.size)
        pace_s = self._residents.tightest_pace_s
        if self.paced_chunks and pace_s < inf:
            context = self._prefilling[0].seq.computed_tokens if self._prefilling else 0
            paced = self._sizer.tokens_under(self.pace_margin * pace_s, batch, context, budget)
            budget = min(budget, paced)
        self._outlook.chunk_tokens = budget
        return budget

    def _never_fits(self, draft: Draft, seq: Sequence) -> str | None:
        """The rule by which a request can never run, if there is one."""
        if seq.prefill_tokens > self.machine.max_model_len:
            return "prompt_too_long"
        tokens = max(seq.prefill_tokens, seq.computed_tokens + 1)
        if draft.blocks_for(tokens) + self._keep_free > draft.pool.total:
            return "exceeds_kv_capacity"
        return None

    def _need(self, draft: Draft, job: Job) -> int:
        """Blocks that a request needs to come in, and one to go on."""
        seq = job.seq
        return draft.blocks_for(max(seq.prefill_tokens, seq.computed_tokens)) + 1

    def _kept(self, draft: Draft) -> int:
        """Blocks that stay free beside an admission."""
        return self._keep_free + draft.batch.next_growth()

    def _until(self, now: float) -> float:
        """When this decision should be thought over though nothing has happened."""
        time_s = min(self._crossings.next_s(), self._agings.next_s(), self._blocked_until_s)
        return time_s if time_s > now else inf

    def _count(self, name: str, by: float = 1) -> None:
        self.counters[name] = self.counters.get(name, 0) + by
