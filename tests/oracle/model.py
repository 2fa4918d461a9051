"""Our engine with `vllm_v1` on a case, one step at a time."""

from __future__ import annotations

from typing import Any

from harness import FakeCost

from oracle.cases import BLOCK, STEP_LIMIT, Case, Job, Offload, Settings, Step, name
from superinfer.engine import Engine, EngineConfig
from superinfer.memory.vllm_v1.policy import VllmV1Memory
from superinfer.plan import Outcome, Plan, Transfer
from superinfer.request import Request
from superinfer.schedulers.vllm_v1 import VllmV1Scheduler
from superinfer.sequence import Sequence, State


def run(case: Case) -> list[Step]:
    """Every step of the case."""
    return Run(case).steps


def build(settings: Settings, sink: Any) -> Engine:
    """An engine of these settings."""
    scheduler = VllmV1Scheduler(
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        policy=settings.policy,  # type: ignore[arg-type]
        chunked=settings.enable_chunked_prefill,
        long_prefill_token_threshold=settings.long_prefill_token_threshold,
        long_prefill_token_threshold_adaptive=settings.long_prefill_token_threshold_adaptive,
        scheduler_reserve_full_isl=settings.scheduler_reserve_full_isl,
        watermark=settings.watermark,
    )
    config = EngineConfig(
        total_blocks=settings.num_blocks,
        block_tokens=BLOCK,
        block_bytes=1,
        max_model_len=settings.max_model_len,
        prefix_caching=settings.enable_prefix_caching,
        lag=int(settings.async_scheduling),
        host_blocks=settings.offload.host_blocks if settings.offload else 0,
    )
    return Engine(scheduler, _memory(settings.offload), FakeCost(), config, sink)


def _memory(offload: Offload | None) -> VllmV1Memory:
    if offload is None:
        return VllmV1Memory()
    policy: Any = offload.eviction_policy
    return VllmV1Memory(True, policy, offload.offload_prompt_only)


def make_request(index: int, job: Job) -> Request:
    """A job as the core sees it."""
    return Request(
        name(index),
        float(job.arrival_step),
        job.prompt_tokens,
        job.max_tokens,
        priority=job.priority,
        hash_ids=job.hash_ids,
        hash_block_tokens=job.hash_block_tokens,
        index=index,
    )


class Run:
    """A case under way. Time is the number of steps begun."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.steps: list[Step] = []
        self.arrived = 0
        self.preempted: list[str] = []
        self._skip = 0
        """Steps without work, passed over."""
        self.loads: dict[str, int] = {}
        self.under_way: list[tuple[int, Transfer]] = []
        """When copies are over, in steps begun and passed over."""
        self.engine = build(case.settings, self._event)
        if case.settings.async_scheduling:
            self._run_ahead()
        else:
            while (plan := self._plan()) is not None and len(self.steps) < STEP_LIMIT:
                self._complete(plan)
        assert not self.engine.live or len(self.steps) >= STEP_LIMIT

    def _event(self, event: Any) -> None:
        if event[1] == "preempt":
            self.preempted.append(event[2])
        elif event[1] == "load":
            self.loads[event[2]] = event[3]

    def _run_ahead(self) -> None:
        plan = self._plan()
        while plan is not None and len(self.steps) < STEP_LIMIT:
            following = self._plan(ahead=True)
            self._complete(plan)
            if following is None:
                plan = self._plan()
            else:
                self.engine.begin(following)
                plan = following

    def _plan(self, ahead: bool = False) -> Plan | None:
        """The next step, after a jump to the next arrival when there is nothing to do."""
        while True:
            done, jobs = len(self.steps), self.case.jobs
            while self.arrived < len(jobs) and jobs[self.arrived].arrival_step <= done + self._skip:
                job = jobs[self.arrived]
                self.engine.submit(make_request(self.arrived, job), float(done))
                self.arrived += 1
            plan = self.engine.plan(float(done))
            if plan is not None:
                self._start_copies(plan, done + self._skip)
                if plan.has_step:
                    plan.steps = 1
                    self._note(plan)
                    return plan
                self.engine.complete(plan, Outcome(float(done)))
            elif ahead or not self._jump(done):
                return None

    def _jump(self, done: int) -> bool:
        """Pass over time in which there is nothing to run; False at the end."""
        coming = [due for due, _ in self.under_way]
        coming += [job.arrival_step for job in self.case.jobs[self.arrived :][:1]]
        if coming:
            self._skip = max(self._skip, min(coming) - done)
            self._land(done + self._skip)
        return bool(coming)

    def _start_copies(self, plan: Plan, clock: int) -> None:
        offload = self.case.settings.offload
        for transfer in plan.background:
            assert offload is not None
            steps = offload.load_steps if transfer.sequence else offload.store_steps
            self.under_way.append((clock + steps, transfer))

    def _land(self, clock: int) -> None:
        """Copies that are over by then."""
        for due, transfer in self.under_way:
            if due <= clock:
                self.engine.transferred(transfer, float(len(self.steps)))
        self.under_way = [copy for copy in self.under_way if copy[0] > clock]

    def _note(self, plan: Plan) -> None:
        scheduled = {chunk.sequence.request.request_id: chunk.tokens for chunk in plan.chunks}
        if plan.decodes:
            scheduled |= {seq.request.request_id: 1 for seq in self.engine.batch.members}
        preempted, self.preempted = sorted(self.preempted), []
        free = self.engine.pool.available
        step = Step(dict(sorted(scheduled.items())), preempted, [], free)
        if self.case.settings.offload:
            step.host_blocks = self.engine.host.cached
            step.loads, self.loads = dict(sorted(self.loads.items())), {}
        self.steps.append(step)
        plan.until = len(self.steps) - 1  # where to note who finished

    def _complete(self, plan: Plan) -> None:
        finished = [seq for seq in self.engine.live if self._tokens(seq, plan) >= self._target(seq)]
        self.steps[int(plan.until)].finished = sorted(seq.request.request_id for seq in finished)
        self.engine.complete(plan, Outcome(float(len(self.steps)), [0.0], finished))
        self._land(int(plan.until) + self._skip)

    def _tokens(self, seq: Sequence, plan: Plan) -> int:
        """Tokens of a sequence after the step of `plan` (with lag 1 counted already)."""
        counted = plan.advanced
        if seq.state is State.DECODING:
            tokens = self.engine.batch.output_tokens(seq)
            return tokens + (not counted and plan.decodes > 0)
        last = any(chunk.sequence is seq and chunk.last for chunk in plan.chunks)
        return seq.output_tokens + (last and not counted)

    def _target(self, seq: Sequence) -> int:
        job = self.case.jobs[seq.request.index]
        room = self.case.settings.max_model_len - job.prompt_tokens
        return min(job.output_tokens, job.max_tokens, room)
