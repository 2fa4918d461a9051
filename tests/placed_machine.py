"""A real engine that does what a random test tells it, its blocks in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from harness import FakeCost, make_engine, request
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from placed_runs import BLOCK_BYTES, Device, FakeStreams, pattern_slabs
from tiered import CachedShrinkingLru, ShrinkingLru

from executor.kv.checks import check
from superinfer.draft import Draft
from superinfer.engine import Engine
from superinfer.memory.base import Timing
from superinfer.plan import Outcome, Plan
from superinfer.request import DEFAULT_CLASS
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.sequence import RESIDENT, Sequence, State

HASH_TOKENS = 6
WHOM = st.integers(0, 1000)
PROMPT, GROUP = st.integers(1, 40), st.integers(0, 3)
BITS = st.sampled_from([16, 8, 4])
TIMING = st.sampled_from(["before_step", "background"])
CHOICES: dict[str, Any] = {
    "shrink_8_at": st.sampled_from([0.3, 0.5]),
    "shrink_4_at": st.sampled_from([0.6, 1.1]),
    "tail_tokens": st.integers(0, 5),
    "host_size_blocks": st.sampled_from([0, 6, 30]),
    "exclusive": st.booleans(),
    "writes_back": st.booleans(),
    "write_through_hits": st.integers(0, 2),
    "load_timing": TIMING,
}
MEMORY = st.one_of(
    st.builds(ShrinkingLru, **CHOICES),
    st.builds(CachedShrinkingLru, spared=st.integers(0, 2), **CHOICES),
)


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


Act = Callable[[Draft, Sequence, Timing], object]


def _admit(draft: Draft, seq: Sequence, timing: Timing) -> None:
    """Every second request has its chunks walk over what it finds in the cache."""
    if seq.state is State.WAITING:
        draft.try_admit(seq, charge_cached=seq.request.index % 2 > 0)


def _swap_out(draft: Draft, seq: Sequence, timing: Timing) -> None:
    if draft.host_fits(seq) and not draft.admits(seq):
        draft.swap_out(seq, timing)


DECISIONS: dict[str, tuple[tuple[State, ...], Act]] = {
    "admit": ((State.WAITING,), _admit),
    "swap_out": (RESIDENT, _swap_out),
    "swap_in": (
        (State.SWAPPED,),
        lambda draft, seq, timing: draft.try_swap_in(seq, timing=timing),
    ),
    "preempt": (RESIDENT, lambda draft, seq, timing: draft.preempt(seq, "recompute")),
    "park": ((State.DECODING,), lambda draft, seq, timing: draft.park(seq)),
    "unpark": ((State.PARKED,), lambda draft, seq, timing: draft.unpark(seq)),
}
"""Who may be decided about, and how."""


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
        memory=MEMORY,
        requests=st.lists(st.tuples(PROMPT, GROUP, BITS), min_size=2, max_size=8),
        seed=st.integers(0, 1 << 16),
        says=st.booleans(),
    )
    def begin(
        self,
        lag: int,
        prefix: bool,
        slab: int,
        blocks: int,
        memory: ShrinkingLru,
        requests: list[tuple[int, int, int]],
        seed: int,
        says: bool = False,
    ) -> None:
        """`says`: the content of answers is known."""
        self.hash_tokens = 2 if says else HASH_TOKENS
        self.scheduler = Scripted()
        self.engine = make_engine(
            self.scheduler,
            blocks,
            memory=replace(memory),
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
        if says and prefix:
            self.engine.text_ids = self.device.contents.text_ids
        for prompt, group, bits in requests:
            self.submit(prompt, group, bits)

    # -- requests -------------------------------------------------------------------------------

    @rule(prompt=PROMPT, group=GROUP, bits=BITS)
    def submit(self, prompt: int, group: int, bits: int) -> None:
        index = len(self.engine.recorder.sequences)
        first = 1000 * group if group else 1000 * (index + 10)
        self._send(prompt, tuple(range(first, first - (-prompt // self.hash_tokens))), bits)

    @precondition(lambda self: self.device.contents.texts)
    @rule(whom=WHOM, tokens=st.integers(1, 12), bits=BITS)
    def go_on_from_a_text(self, whom: int, tokens: int, bits: int) -> None:
        """The next turn: a prompt that begins with an answer and what it answered."""
        texts, index = self.device.contents.texts, len(self.engine.recorder.sequences)
        known = texts[whom % len(texts)][: 30 // self.hash_tokens]
        new = range(1000 * (index + 10), 1000 * (index + 10) - (-tokens // self.hash_tokens))
        self._send(len(known) * self.hash_tokens + tokens, (*known, *new), bits)

    def _send(self, prompt: int, ids: tuple[int, ...], bits: int) -> None:
        made = request(
            len(self.engine.recorder.sequences),
            prompt,
            0,
            self.now,
            slo_class=replace(DEFAULT_CLASS, min_kv_bits=bits),
            hash_ids=ids,
            hash_block_tokens=self.hash_tokens,
        )
        seq = self.engine.submit(made, self.now)
        self.scheduler.script.append(lambda draft: _admit(draft, seq, "before_step"))

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

    @rule(
        decisions=st.lists(st.tuples(st.sampled_from(sorted(DECISIONS)), WHOM, TIMING), max_size=3),
        tokens=st.integers(1, 20),
        steps=st.integers(1, 6),
        copies=st.integers(0, 12),
    )
    def decide(
        self, decisions: list[tuple[str, int, Timing]], tokens: int, steps: int, copies: int
    ) -> None:
        """A plan with these decisions, and all that can run."""
        scheduler = self.scheduler
        scheduler.script += [partial(self._act, *decision) for decision in decisions]
        scheduler.chunk_tokens, scheduler.steps, scheduler.copies = tokens, steps, copies
        self._step()

    @rule(actions=st.integers(1, 60), plans=st.integers(0, 4))
    def go_on(self, actions: int, plans: int) -> None:
        """The device does something, copies land, and a few more plans are made."""
        self.streams.go_on(actions)
        for transfer in self.device.poll():
            self.engine.transferred(transfer, self.now)
        for _ in range(plans):
            self._step()

    @rule(bits=BITS)
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
        assert not manager.device.held and not manager.swapped.hosted
        assert manager.host.taken == self.engine.host.cached
        assert sum(manager.device.places.live.values()) == pool.cached

    # -- inside ---------------------------------------------------------------------------------

    def _live(self, whom: int) -> Sequence | None:
        live = list(self.engine.live)
        return live[whom % len(live)] if live else None

    def _act(self, kind: str, whom: int, timing: Timing, draft: Draft) -> None:
        """Do something with one of those with whom it can be done."""
        states, act = DECISIONS[kind]
        found = [seq for seq in self.engine.live if seq.state in states]
        if found:
            act(draft, found[whom % len(found)], timing)

    def _step(self) -> None:
        plan = self.engine.plan(self.now)
        self.device.follow(plan)
        if plan is not None:
            self.giving[plan] = _giving(self.engine, plan)
        if self.running is not None:
            if plan is not None and plan.has_step:
                self.device.give(plan, 0)
            self._complete(self.running, True)
            if plan is not None:
                self.engine.begin(plan)
        started, self.running = self.running is not None, None
        if plan is not None:
            self._run(plan, started)

    def _run(self, plan: Plan, started: bool) -> None:
        """All steps of a plan, the first of which may have `started`; with lag 1 the last one is
        left on the device.
        """
        lag = self.engine.config.lag
        steps = plan.steps if plan.has_step else 0
        for step in range(int(started), steps):
            self.device.give(plan, step)
        ends = [self.now + 1.0 + step for step in range(steps)]
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
