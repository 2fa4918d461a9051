"""Random decisions on a real engine, its blocks in memory: nothing leaks, no block has two owners,
and no token changes, however late and in whichever order copies complete.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from harness import FakeCost, make_engine, request
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from placed_runs import BLOCK_BYTES, Device, FakeStreams, pattern_slabs
from tiered import ShrinkingLru

from executor.kv.checks import check
from superinfer.draft import Draft
from superinfer.engine import Engine
from superinfer.plan import Outcome, Plan
from superinfer.request import DEFAULT_CLASS
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.sequence import RESIDENT, Sequence, State

HASH_TOKENS = 6
WHOM = st.integers(0, 1000)
TIMING = st.sampled_from(["before_step", "background"])


@dataclass
class Scripted(FcfsScheduler):
    """Does what it is told, as far as that is possible, and then runs whatever can run."""

    write_through: bool = True
    script: list[Callable[[Draft], None]] = field(default_factory=list)
    chunk_tokens: int = 8
    steps: int = 1
    copies: int = 0

    def may_swap_out(self, seq: Sequence) -> bool:
        return True

    def submit(self, seq: Sequence, now: float) -> None:
        """Nobody waits: whoever is to run is named."""

    def ended(self, seq: Sequence) -> None:
        """Nothing is kept."""

    def resumed(self, seq: Sequence) -> None:
        """Nothing is kept."""

    def plan(self, draft: Draft, now: float) -> None:
        script, self.script = self.script, []
        for decide in script:
            decide(draft)
        engine = draft._engine
        live = list(engine.live)
        while draft.batch.size and draft.decode(1) < 1:
            draft.preempt(next(seq for seq in live if seq.state in RESIDENT), "recompute")
        for seq in live:
            if seq.state is State.PREFILLING:
                tokens = min(self.chunk_tokens, seq.prefill_tokens - seq.computed_tokens)
                draft.prefill(seq, tokens)
        if draft.batch.size:
            draft.decode(self.steps)
            if self.copies:
                draft.write_through(self.copies)
        self.copies = 0


class Placed(RuleBasedStateMachine):
    """One engine; each rule is something that may happen to its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ending: set[Sequence] = set()
        self.giving: dict[Plan, list[Sequence]] = {}
        self.running: Plan | None = None
        """The plan whose last step is on the device (lag 1)."""

    @initialize(
        lag=st.integers(0, 1),
        prefix=st.booleans(),
        slab=st.integers(1, 4),
        blocks=st.integers(12, 40),
        seed=st.integers(0, 1 << 16),
    )
    def begin(self, lag: int, prefix: bool, slab: int, blocks: int, seed: int) -> None:
        self.scheduler = Scripted()
        self.engine = make_engine(
            self.scheduler,
            blocks,
            memory=ShrinkingLru(shrink_8_at=0.3, shrink_4_at=0.6, tail_tokens=1),
            cost=FakeCost(),
            block_tokens=4,
            block_bytes=BLOCK_BYTES[16],
            small_block_bytes=(BLOCK_BYTES[8], BLOCK_BYTES[4]),
            slabs=pattern_slabs(slab),
            host_blocks=blocks,
            lag=lag,
            prefix_caching=prefix,
        )
        self.streams = FakeStreams(seed)
        self.device = Device(self.engine, self.streams)

    # -- requests -------------------------------------------------------------------------------

    @rule(prompt=st.integers(1, 40), group=st.integers(0, 3), bits=st.sampled_from([16, 8, 4, 4]))
    def submit(self, prompt: int, group: int, bits: int) -> None:
        index = len(self.engine.recorder.sequences)
        first = 1000 * group if group else 1000 * (index + 10)
        made = request(
            index,
            prompt,
            0,
            self.now,
            slo_class=replace(DEFAULT_CLASS, min_kv_bits=bits),
            hash_ids=tuple(range(first, first - (-prompt // HASH_TOKENS))),
            hash_block_tokens=HASH_TOKENS,
        )
        seq = self.engine.submit(made, self.now)
        self.scheduler.script.append(lambda draft: self._admit(draft, seq))

    @rule(whom=WHOM)
    def admit(self, whom: int) -> None:
        self._decide(whom, (State.WAITING,), self._admit)

    @rule(whom=WHOM, timing=TIMING)
    def swap_out(self, whom: int, timing: str) -> None:
        self._decide(whom, RESIDENT, lambda draft, seq: self._swap_out(draft, seq, timing))

    @rule(whom=WHOM, timing=TIMING)
    def swap_in(self, whom: int, timing: str) -> None:
        self._decide(
            whom, (State.SWAPPED,), lambda draft, seq: draft.try_swap_in(seq, timing=timing)
        )

    @rule(whom=WHOM)
    def preempt(self, whom: int) -> None:
        self._decide(whom, RESIDENT, lambda draft, seq: draft.preempt(seq, "recompute"))

    @rule(whom=WHOM)
    def park(self, whom: int) -> None:
        self._decide(whom, (State.DECODING,), lambda draft, seq: draft.park(seq))

    @rule(whom=WHOM)
    def unpark(self, whom: int) -> None:
        self._decide(whom, (State.PARKED,), lambda draft, seq: draft.unpark(seq))

    @rule(whom=WHOM)
    def cancel(self, whom: int) -> None:
        seq = self._live(whom)
        if seq is not None:
            self.engine.cancel(seq, self.now)

    @rule(whom=WHOM)
    def finish(self, whom: int) -> None:
        """It gets its last token with the next step that gives it one."""
        seq = self._live(whom)
        if seq is not None:
            self.ending.add(seq)

    # -- steps ----------------------------------------------------------------------------------

    @rule(tokens=st.integers(1, 20), steps=st.integers(1, 6), copies=st.integers(0, 12))
    def step(self, tokens: int, steps: int, copies: int) -> None:
        scheduler = self.scheduler
        scheduler.chunk_tokens, scheduler.steps, scheduler.copies = tokens, steps, copies
        plan = self.engine.plan(self.now)
        self.device.follow(plan)
        if self.running is not None:
            self._complete(self.running, True)
            self.running = None
            if plan is not None:
                self.engine.begin(plan)
        if plan is not None:
            self._run(plan)

    @rule(actions=st.integers(1, 60))
    def let_the_device_go_on(self, actions: int) -> None:
        self.streams.go_on(actions)
        for transfer in self.device.poll():
            self.engine.transferred(transfer, self.now)

    @rule(bits=st.sampled_from([16, 8, 4]))
    def compact(self, bits: int) -> None:
        if self.device.manager.device.places.thin_slabs(bits):
            self.device.manager.device.compact(bits)

    # -- what always holds ----------------------------------------------------------------------

    @precondition(lambda self: self.running is None)
    @invariant()
    def counts_agree(self) -> None:
        check(self.device.manager)

    def teardown(self) -> None:
        if not hasattr(self, "device"):
            return
        self.device.finish()
        if self.running is not None:
            self._complete(self.running, True)
        self.engine.close(self.now)
        for transfer in self.device.poll():
            self.engine.transferred(transfer, self.now)
        self.device.follow(self.engine.plan(self.now))
        manager, pool = self.device.manager, self.engine.pool
        assert not manager.device.held and not manager.hosted
        assert not manager.host.taken
        assert sum(manager.device.places.live.values()) == pool.cached

    # -- inside ---------------------------------------------------------------------------------

    def _live(self, whom: int) -> Sequence | None:
        live = list(self.engine.live)
        return live[whom % len(live)] if live else None

    def _decide(
        self,
        whom: int,
        states: tuple[State, ...],
        act: Callable[[Draft, Sequence], object],
    ) -> None:
        """Someone of those who are in one of these states then."""

        def decide(draft: Draft) -> None:
            found = [seq for seq in self.engine.live if seq.state in states]
            if found:
                act(draft, found[whom % len(found)])

        self.scheduler.script.append(decide)

    def _admit(self, draft: Draft, seq: Sequence) -> None:
        if seq.state is State.WAITING:
            draft.try_admit(seq)

    def _swap_out(self, draft: Draft, seq: Sequence, timing: str) -> None:
        if draft.host_fits(seq) and seq.computed_tokens:
            draft.swap_out(seq, timing)  # type: ignore[arg-type]

    def _run(self, plan: Plan) -> None:
        """All steps of a plan; with lag 1 the last one is left on the device."""
        lag = self.engine.config.lag
        self.giving[plan] = _giving(self.engine, plan)
        steps = plan.steps if plan.has_step else 0
        ends = []
        for step in range(steps):
            self.device.give(plan, step)
            ends.append(self.now + 1.0 + step)
        if not lag:
            self.streams.finish("compute")
            self._end(plan, ends, True)
            return
        if steps > 1:
            self._end(plan, ends[:-1], False)
        self.running = plan

    def _complete(self, plan: Plan, last: bool) -> None:
        self._end(plan, [self.now + 1.0] if plan.has_step else [], last)

    def _end(self, plan: Plan, ends: list[float], last: bool) -> None:
        self.now += max(1, len(ends))
        self.engine.complete(plan, Outcome(self.now, ends, self._finished(plan, ends), last))

    def _finished(self, plan: Plan, ends: list[float]) -> list[Sequence]:
        """Who of those that are to end got a token in the steps that end now."""
        giving = self.giving[plan] if ends else ()
        return [seq for seq in giving if seq in self.ending and seq in self.engine.live]


def _giving(engine: Engine, plan: Plan) -> list[Sequence]:
    """Who gets a token in each step of a plan that is about to start."""
    giving = [chunk.sequence for chunk in plan.chunks if chunk.last]
    return giving + (list(engine.batch.members) if plan.decodes else [])


FEW = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def test_places_survive_whatever_happens() -> None:
    run_state_machine_as_test(Placed, settings=FEW)


@pytest.mark.slow
def test_places_survive_whatever_happens_for_long() -> None:
    many = settings(FEW, max_examples=400, stateful_step_count=80)
    run_state_machine_as_test(Placed, settings=many)
