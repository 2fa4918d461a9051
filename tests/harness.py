"""Test doubles: a cost model with given times, and a plain blocking driver with a fake device."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from superinfer.costs.base import Chunk, SliceLine
from superinfer.costs.coverage import NO_LIMITS, Limits
from superinfer.draft import Draft
from superinfer.engine import Engine, EngineConfig
from superinfer.memory.lru import LruMemory
from superinfer.plan import Outcome, Plan, Transfer
from superinfer.request import Request
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.sequence import Sequence as LiveSequence
from superinfer.sequence import State

BLOCK = 4


@dataclass
class FakeCost:
    """Times that are exact in binary, so sums do not depend on their order."""

    step: float = 1.0
    per_chunk_token: float = 0.0
    per_context_token: float = 0.0
    host: float = 0.0
    copy: float = 0.0
    per_byte: float = 0.0
    kv_bytes_per_token: int = 1
    duplex: float = 1.0
    """How many times as long a copy takes beside one the other way."""
    limits: Limits = NO_LIMITS

    def step_s(self, chunks: Sequence[Chunk], decodes: int, context_tokens: int) -> float:
        tokens = sum(chunk.tokens for chunk in chunks)
        return self.step + self.per_chunk_token * tokens + self.per_context_token * context_tokens

    def slice_line(self, chunks: Sequence[Chunk], decodes: int, context_tokens: int) -> SliceLine:
        first_s = self.step_s(chunks, decodes, context_tokens)
        return SliceLine(first_s, self.per_context_token * decodes, float("inf"))

    def host_s(self, sequences: int) -> float:
        return self.host

    @property
    def duplex_slows(self) -> bool:
        return self.duplex > 1.0

    def transfer_s(self, nbytes: int, pieces: int, direction: str, company: bool = False) -> float:
        return (self.duplex if company else 1.0) * (self.copy + self.per_byte * nbytes)

    def attention_share(self, bits: int, byte_share: float) -> float:
        return byte_share

    def requantise_s(self, nbytes: int, to_bits: int) -> float:
        return self.per_byte * nbytes


@dataclass
class IdleScheduler(FcfsScheduler):
    """Queues everything and never runs anything."""

    def plan(self, draft: Draft, now: float) -> None:
        """Nothing."""


@dataclass
class CuriousScheduler(FcfsScheduler):
    """Asks what steps far outside any range would take, and does as its parent does."""

    def plan(self, draft: Draft, now: float) -> None:
        """Ask, then plan."""
        draft._engine.cost.step_s([Chunk(1_000_000, 0)], 4, 10_000_000)
        FcfsScheduler.plan(self, draft, now)


def request(
    index: int,
    prompt: int,
    output: int,
    arrival_s: float = 0.0,
    name: str | None = None,
    **more: Any,
) -> Request:
    """A request; its answer length goes to the oracle, not in here."""
    more.setdefault("max_tokens", 1 << 20)
    return Request(name or f"r{index}", arrival_s, prompt, index=index, **more)


def make_engine(
    scheduler: Any,
    blocks: int,
    *,
    memory: Any = None,
    cost: Any = None,
    sink: Callable[[Any], None] | None = None,
    believed: Any = None,
    **config: Any,
) -> Engine:
    config.setdefault("block_tokens", BLOCK)
    config.setdefault("block_bytes", 1)
    return Engine(
        scheduler,
        memory or LruMemory(),
        cost or FakeCost(),
        EngineConfig(total_blocks=blocks, **config),
        sink,
        believed,
    )


@dataclass
class BlockingDriver:
    """A loop with no SimPy: one step at a time, looking at the clock after every one.

    It shares nothing with the simulator but the engine, and carries out the same rules: a slice
    ends at the first step boundary after a finish, an arrival or a landing, with lag 1 one later.
    """

    engine: Engine
    requests: list[Request]
    output_tokens: list[int]
    on_plan: Callable[[Engine, Plan], None] | None = None
    now: float = 0.0
    landings: list[tuple[float, int, Transfer]] = field(default_factory=list)
    started: Iterator[int] = field(default_factory=count)
    """Numbers the copies: of two that land together the one that started first comes first."""
    link_free: dict[str, float] = field(default_factory=lambda: {"h2d": 0.0, "d2h": 0.0})
    arrived: int = 0
    sequences: list[LiveSequence] = field(default_factory=list)
    """Who has arrived."""
    disturbed: bool = False
    single_steps: bool = False
    """Ask for a new plan after every step, however long the slice was to be."""

    def run(self) -> None:
        """To the end of the workload."""
        (self._run_ahead if self.engine.config.lag else self._run_plain)()
        assert not self.engine.live, f"stuck: {list(self.engine.live)}"

    # -- loops ----------------------------------------------------------------------------------

    def _run_plain(self) -> None:
        while (plan := self._next_plan()) is not None:
            self._start(plan)
            ends: list[float] = []
            finished: list[Any] = []
            while True:
                self.now += self._step_s(plan, len(ends))
                if self._has_step(plan):
                    ends.append(self.now)
                    finished = self._finishing(plan, len(ends), counted=False)
                self._catch_up()
                over = len(ends) >= plan.steps or not ends or self.now >= plan.until
                if over or finished or self.disturbed:
                    break
            self.engine.complete(plan, Outcome(self.now, ends, finished))

    def _run_ahead(self) -> None:
        plan = self._next_plan()
        while plan is not None:
            self._start(plan)
            ends: list[float] = []
            finished: list[Any] = []
            while len(ends) < plan.steps - 1 and self.now < plan.until and not self.disturbed:
                self.now += self._step_s(plan, len(ends))
                ends.append(self.now)
                finished = self._finishing(plan, len(ends), counted=False)
                self._catch_up()
                if finished:
                    break
            if ends:
                self.engine.complete(plan, Outcome(self.now, ends, finished, last=False))
            self.disturbed = False
            following = self._plan()
            self._note(following)
            self.now += self._step_s(plan, plan.done_steps)
            has_step = self._has_step(plan)
            finished = self._finishing(plan, plan.done_steps + 1, counted=True) if has_step else []
            self._catch_up()
            ends = [self.now] if has_step else []
            self.engine.complete(plan, Outcome(self.now, ends, finished))
            self.disturbed = self.disturbed or bool(finished)
            if following is None:
                plan = self._next_plan()
            else:
                plan = following
                self.engine.begin(plan)

    # -- parts ----------------------------------------------------------------------------------

    def _next_plan(self) -> Plan | None:
        """The next plan, sleeping through idle time; None at the end."""
        while True:
            self._catch_up()
            self.disturbed = False
            plan = self._plan()
            if plan is not None:
                self._note(plan)
                return plan
            coming = [entry[0] for entry in self.landings[:1]]
            coming += [request.arrival_s for request in self.requests[self.arrived :][:1]]
            wakeup_s = self.engine.next_wakeup(self.now)
            coming += [wakeup_s] if wakeup_s is not None else []
            if not coming:
                return None
            self.now = max(self.now, min(coming))

    def _plan(self) -> Plan | None:
        plan = self.engine.plan(self.now)
        if plan is not None and self.single_steps:
            plan.steps = 1
        return plan

    def _note(self, plan: Plan | None) -> None:
        if plan is not None and self.on_plan is not None:
            self.on_plan(self.engine, plan)

    def _catch_up(self) -> None:
        """Deliver what happened up to now, in the order of time."""
        while True:
            landing_s = self.landings[0][0] if self.landings else float("inf")
            more = self.arrived < len(self.requests)
            arrival_s = self.requests[self.arrived].arrival_s if more else float("inf")
            if min(landing_s, arrival_s) > self.now:
                return
            self.disturbed = True
            if landing_s <= arrival_s:
                time_s, _, transfer = heapq.heappop(self.landings)
                self.engine.transferred(transfer, time_s)
            else:
                self.arrived += 1
                arrived = self.engine.submit(self.requests[self.arrived - 1], arrival_s)
                self.sequences.append(arrived)

    def _start(self, plan: Plan) -> None:
        begin_s = self.now
        for job in plan.requantised:
            self.now += self.engine.cost.requantise_s(job.nbytes, job.to_bits)
        for transfer in plan.before_step:
            done_s = self._copied(transfer, plan.now if plan.full_duplex else self.now)
            self.now = max(self.now, done_s)
        for transfer in plan.background:
            landing_s = self._copied(transfer, begin_s)
            heapq.heappush(self.landings, (landing_s, next(self.started), transfer))

    def _copied(self, transfer: Transfer, earliest_s: float) -> float:
        """When a copy is done, behind those that its direction of the link has to do before."""
        seconds = self.engine.cost.transfer_s(transfer.nbytes, transfer.pieces, transfer.direction)
        start_s = max(earliest_s, self.link_free[transfer.direction])
        self.link_free[transfer.direction] = start_s + seconds
        return start_s + seconds

    def _has_step(self, plan: Plan) -> bool:
        return bool(plan.chunks or plan.decodes)

    def _step_s(self, plan: Plan, done: int) -> float:
        if not self._has_step(plan):
            return 0.0
        chunks, decodes, context = plan.work_at(done)
        cost = self.engine.cost
        device_s = cost.step_s(chunks, decodes, context)
        host_s = cost.host_s(decodes + len(chunks))
        return max(host_s, device_s) if self.engine.config.lag else host_s + device_s

    def _finishing(self, plan: Plan, steps: int, counted: bool) -> list[Any]:
        """Who has all tokens after `steps` steps of the plan, by asking every sequence.

        The plan's batch is not stored as a list, so this looks at all live sequences; with lag 1
        the engine has `counted` the step already.
        """
        engine, finished = self.engine, []
        chunked = {chunk.sequence for chunk in plan.chunks if chunk.last}
        for seq in engine.live:
            tokens = seq.output_tokens
            if seq.state is State.DECODING:
                tokens = engine.batch.output_tokens(seq)
                if not counted and plan.decodes and seq not in chunked:
                    tokens += steps - plan.done_steps
            elif seq in chunked and not counted:
                tokens += 1
            if tokens >= self._target(seq.request):
                finished.append(seq)
        return finished

    def _target(self, req: Request) -> int:
        room = max(1, self.engine.config.max_model_len - req.prompt_tokens)
        return min(self.output_tokens[req.index], req.max_tokens, room)


def iterations(
    scheduler: Any,
    jobs: dict[str, tuple[int, int]],
    arrivals: dict[str, int] | None = None,
    *,
    blocks: int = 8,
    requests: dict[str, dict[str, Any]] | None = None,
    **engine: Any,
) -> list[str]:
    """One line per iteration: chunks, preemptions (-), returns (+), decodes, and blocks in use.

    `jobs` maps a name to (prompt, outputs), `arrivals` a name to the iteration before which it
    comes, `requests` a name to more fields of its request. Slices are unrolled into single steps.
    """
    late = arrivals or {}
    order = sorted(jobs, key=lambda name: late.get(name, 1))
    made = [
        request(
            index,
            jobs[name][0],
            0,
            late[name] - 1.5 if name in late else 0.0,
            name,
            **(requests or {}).get(name, {}),
        )
        for index, name in enumerate(order)
    ]
    engine.setdefault("host_blocks", 64)
    core = make_engine(scheduler, blocks, **engine)
    lines: list[str] = []
    driver = BlockingDriver(
        core,
        made,
        [jobs[name][1] for name in order],
        lambda _, plan: lines.append(_line(core, plan)),
        single_steps=True,
    )
    driver.run()
    return lines


def _line(core: Engine, plan: Plan) -> str:
    parts = [f"{chunk.sequence.request.request_id}{chunk.tokens}" for chunk in plan.chunks]
    signs = {"preempt": "-", "swap_out": "-", "swap_in": "+"}
    for change in plan.changes:
        if change.kind in signs:
            parts.append(signs[change.kind] + change.sequence.request.request_id)
    if plan.decodes:
        parts.append("".join(sorted(seq.request.request_id for seq in core.batch.members)))
    return f"{' '.join(parts)} used {core.pool.referenced}"
