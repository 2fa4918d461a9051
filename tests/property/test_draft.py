"""Drafts: whatever a scheduler tries and takes back leaves no trace, and impossible plans raise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from harness import BlockingDriver, make_engine, request
from hypothesis import given, settings
from hypothesis import strategies as st
from property.arms import ALL_ARMS, ARMS, BOTH_CACHES, BOTH_LAGS
from property.exact_runs import BLOCKS, FAKE, skip_impossible
from property.invariants import Watch, assert_all_free, assert_each_ends_once
from property.workloads import JOBS, SETTINGS, Job, prompts

from superinfer.draft import Draft
from superinfer.engine import Engine
from superinfer.errors import PlanError
from superinfer.memory.vllm_v1.cache import BlockCache
from superinfer.plan import Outcome
from superinfer.sequence import Sequence, State

pytestmark = pytest.mark.interpreted
"""They read every slot of a sequence."""

UNTRACED = frozenset({"keys"})
"""Filled in when first asked for; says nothing about state."""
IN_BATCH = frozenset({"join_step", "seen_step", "seen_small"})
"""Set on joining the batch; outside they mean nothing."""


# -- everything that a draft may touch ------------------------------------------------------------


def block_refs(engine: Engine) -> dict[tuple[object, ...], tuple[object, ...]]:
    """References and place of every cached block: an edge may have been cut without a block
    changing.
    """
    if engine.prefix is None:
        return {}
    if isinstance(engine.prefix, BlockCache):
        return {(b.key, b.number, b.place, b.blocks): (b.refs,) for b in engine.prefix.nodes()}
    assert engine.tree is not None
    refs: dict[tuple[object, ...], tuple[object, ...]] = {}
    for node in engine.tree.nodes():
        for block in range(node.start, node.stop):
            last = ((block + 1) * engine.block_tokens - 1) // node.hash_tokens
            first = ((node.start + 1) * engine.block_tokens - 1) // node.hash_tokens
            key = node.keys[min(last - first, len(node.keys) - 1)]
            refs[(block, key)] = (node.refs, node.on_device, node.on_host, node.loading)
    return refs


def snapshot(engine: Engine) -> dict[str, Any]:
    """All state that decisions change, by value."""
    pool, host, batch, runs = engine.pool, engine.host, engine.batch, engine.batch.runs
    state: dict[str, Any] = {
        "pool": (pool.referenced, pool.cached, pool.peak_referenced, pool.peak_used),
        "host": (host.used, host.cached, host.mirrored, host.nbytes),
        "resident": engine.resident,
        "live": list(engine.live),
        "batch": (batch.step, batch.size, batch.context_tokens, len(batch.end_s)),
        "members": set(batch.members),
        "joined": list(batch.joined),
        "growth": [batch.growth(steps) for steps in range(engine.block_tokens + 1)],
        "runs": [column.tolist() for column in (runs.row, runs.first, runs.stop, runs.gap_row)],
        "refs": block_refs(engine),
    }
    for seq in engine.recorder.sequences:
        for name in Sequence.__slots__:
            means_nothing = name in IN_BATCH and seq.state is not State.DECODING
            if name not in UNTRACED and not means_nothing:
                state[f"{seq.request.request_id}.{name}"] = getattr(seq, name)
    return state


def assert_unchanged(engine: Engine, before: dict[str, Any]) -> None:
    after = snapshot(engine)
    assert {k: v for k, v in after.items() if before.get(k) != v} == {}


# -- random decisions -----------------------------------------------------------------------------


def _admit(draft: Draft, seq: Sequence, rng: Random) -> None:
    if on_host := draft.host_prefix(seq):
        draft.try_load(seq, on_host, keep_free=rng.randint(0, 2), reserved_blocks=rng.randint(0, 2))
        return
    keep_free = rng.randint(0, 3)
    whole, charge = rng.random() < 0.5, rng.random() < 0.5
    if draft.try_admit(seq, keep_free=keep_free, whole_need=whole, charge_cached=charge):
        assert draft.available >= keep_free


def _prefill(draft: Draft, seq: Sequence, rng: Random) -> None:
    left = seq.prefill_tokens - seq.computed_tokens
    assert 1 <= draft.prefill(seq, rng.randint(1, left)) <= left


def _adopt(draft: Draft, seq: Sequence, rng: Random) -> None:
    if draft._engine.offload is not None and seq.node is not None:
        draft.adopt(seq)


def _preempt(draft: Draft, seq: Sequence, rng: Random) -> None:
    before, freed = draft.available, draft.private_blocks(seq)
    draft.preempt(seq, "recompute" if draft.admits(seq) else rng.choice(["recompute", "swap"]))
    assert draft.available >= before + freed


def _swap_out(draft: Draft, seq: Sequence, rng: Random) -> None:
    if draft.admits(seq):
        return
    before = draft.available
    assert draft.swap_out(seq, "background")
    assert draft.available == before


def _swap_in(draft: Draft, seq: Sequence, rng: Random) -> None:
    timing: Any = rng.choice(["before_step", "background"])
    if draft.try_swap_in(seq, keep_free=rng.randint(0, 3), timing=timing):
        assert seq.state is (State.MOVING_IN if timing == "background" else seq.state)


def _park(draft: Draft, seq: Sequence, rng: Random) -> None:
    draft.park(seq)


def _unpark(draft: Draft, seq: Sequence, rng: Random) -> None:
    draft.unpark(seq)


Decision = Callable[[Draft, Sequence, Random], None]
DECISIONS: dict[State, list[Decision]] = {
    State.WAITING: [_admit],
    State.PREFILLING: [_prefill, _prefill, _preempt, _swap_out, _adopt],
    State.DECODING: [_preempt, _swap_out, _park, _park],
    State.PARKED: [_preempt, _swap_out, _unpark],
    State.SWAPPED: [_swap_in],
}


def decide(draft: Draft, engine: Engine, rng: Random, count: int) -> None:
    """Up to `count` random decisions, each possible where it is made."""
    for _ in range(count):
        able = [seq for seq in engine.live if seq.state in DECISIONS]
        if not able:
            return
        seq = rng.choice(able)
        rng.choice(DECISIONS[seq.state])(draft, seq, rng)


def draft_lists(draft: Draft) -> tuple[list[Any], ...]:
    return (draft.changes[:], draft.chunks[:], draft.before_step[:], draft.background[:])


def try_things(draft: Draft, engine: Engine, rng: Random) -> None:
    """Decide, go back to a mark, decide again and go back to the start."""
    start = snapshot(engine)
    decide(draft, engine, rng, rng.randint(0, 8))
    mark, at_mark, lists = draft.mark(), snapshot(engine), draft_lists(draft)
    decide(draft, engine, rng, rng.randint(0, 12))
    draft.rollback(mark)
    assert draft_lists(draft) == lists
    assert_unchanged(engine, at_mark)
    decide(draft, engine, rng, rng.randint(0, 4))
    draft.rollback()
    assert not any(draft_lists(draft))
    assert_unchanged(engine, start)


@dataclass
class Hesitant:
    """A scheduler that tries all sorts of things before it does what its inner one does."""

    inner: Any
    rng: Random
    engine: Engine = field(init=False)
    plans: int = 0

    def plan(self, draft: Draft, now: float) -> None:
        self.plans += 1
        try_things(draft, self.engine, self.rng)
        self.inner.plan(draft, now)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def hesitant(arm: str, seed: int | None, events: list[Any], **config: Any) -> Engine:
    """An engine; with a seed its scheduler is hesitant."""
    skip_impossible(arm, config.get("lag", 0), config.get("prefix_caching", False))
    scheduler, memory = ARMS[arm]()
    if seed is not None:
        scheduler = Hesitant(scheduler, Random(seed))
    engine = make_engine(
        scheduler,
        BLOCKS,
        memory=memory,
        cost=FAKE,
        sink=events.append,
        host_blocks=4000,
        max_model_len=512,
        **config,
    )
    if seed is not None:
        scheduler.engine = engine
    return engine


@ALL_ARMS
@BOTH_LAGS
@settings(SETTINGS, max_examples=8)
@given(jobs=JOBS, seed=st.integers(0, 1 << 32))
def test_hesitation_leaves_no_trace(arm: str, lag: int, jobs: list[Job], seed: int) -> None:
    logs: list[list[Any]] = [[], []]
    for events, used in zip(logs, (None, seed), strict=True):
        engine = hesitant(arm, used, events, lag=lag)
        BlockingDriver(engine, prompts(jobs), [job.output for job in jobs]).run()
    assert logs[0] == logs[1]


@ALL_ARMS
@BOTH_LAGS
@BOTH_CACHES
@settings(SETTINGS, max_examples=6)
@given(jobs=JOBS, seed=st.integers(0, 1 << 32))
def test_engine_goes_on_after_rollbacks(
    arm: str, lag: int, prefix: bool, jobs: list[Job], seed: int
) -> None:
    events: list[Any] = []
    engine = hesitant(arm, seed, events, lag=lag, prefix_caching=prefix)
    Watch(engine)
    BlockingDriver(engine, prompts(jobs), [job.output for job in jobs]).run()
    assert_each_ends_once(events, jobs)
    assert_all_free(engine)


# -- refusals -------------------------------------------------------------------------------------


@dataclass
class Failing(Hesitant):
    """Makes random decisions and then, now and then, raises PlanError half way."""

    fail: bool = False
    before: dict[str, Any] = field(default_factory=dict)

    def plan(self, draft: Draft, now: float) -> None:
        if not self.fail:
            self.inner.plan(draft, now)
            return
        self.before = snapshot(self.engine)
        decide(draft, self.engine, self.rng, 8)
        raise PlanError("changed its mind")


@ALL_ARMS
@BOTH_CACHES
@settings(SETTINGS, max_examples=8)
@given(jobs=JOBS, seed=st.integers(0, 1 << 32))
def test_plan_error_changes_nothing(arm: str, prefix: bool, jobs: list[Job], seed: int) -> None:
    events: list[Any] = []
    engine = hesitant(arm, None, events, prefix_caching=prefix)
    scheduler = Failing(engine.scheduler, Random(seed))
    scheduler.engine, engine.scheduler = engine, scheduler
    sound_plan = engine.plan

    def plan(now: float) -> Any:
        scheduler.fail, logged = True, len(events)
        with pytest.raises(PlanError, match="changed its mind"):
            sound_plan(now)
        landed = {event[1] for event in events[logged:]} <= {"transfer"}
        assert landed  # copies that arrived count, nothing else was said
        assert_unchanged(engine, scheduler.before)
        scheduler.fail = False
        return sound_plan(now)

    engine.plan = plan  # type: ignore[method-assign]
    BlockingDriver(engine, prompts(jobs), [job.output for job in jobs]).run()
    assert_each_ends_once(events, jobs)
    assert_all_free(engine)


Script = Callable[[Draft, list[Sequence]], Any]


class Scripted:
    """A scheduler whose next plan is a function of the draft and the sequences submitted."""

    name, block_tokens, copies_per_block = "scripted", 4, 1

    def __init__(self) -> None:
        self.sequences: list[Sequence] = []
        self.script: Script = lambda draft, sequences: None

    def submit(self, seq: Sequence, now: float) -> None:
        self.sequences.append(seq)

    def plan(self, draft: Draft, now: float) -> None:
        self.script(draft, self.sequences)

    def bind(self, machine: Any) -> None:
        """Needs to know nothing."""

    def swapped_out(self, seq: Sequence) -> None:
        """Keeps no queues."""

    resumed = ended = swapped_out

    def next_wakeup(self, now: float) -> None:
        return None


IMPOSSIBLE: dict[str, Script] = {
    "overfull": lambda d, s: (d.try_admit(s[0]), d.try_admit(s[1], keep_free=-8)),
    "chunk too long": lambda d, s: (d.try_admit(s[0]), d.prefill(s[0], 13)),
    "empty chunk": lambda d, s: (d.try_admit(s[0]), d.prefill(s[0], 0)),
    "chunk of a waiting one": lambda d, s: d.prefill(s[0], 1),
    "two chunks": lambda d, s: (d.try_admit(s[0]), d.prefill(s[0], 4), d.prefill(s[0], 4)),
    "chunk of a victim": lambda d, s: (
        d.try_admit(s[0]),
        d.prefill(s[0], 4),
        d.preempt(s[0], "recompute"),
    ),
    "admitted twice": lambda d, s: (d.try_admit(s[0]), d.try_admit(s[0])),
    "waiting one preempted": lambda d, s: d.preempt(s[0], "recompute"),
    "waiting one swapped in": lambda d, s: d.try_swap_in(s[0]),
    "prefilling one parked": lambda d, s: (d.try_admit(s[0]), d.park(s[0])),
    "prefilling one unparked": lambda d, s: (d.try_admit(s[0]), d.unpark(s[0])),
}
"""What a scheduler may ask of two waiting sequences of 12 tokens and 4 blocks, in vain."""


@pytest.mark.parametrize("script", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_plans_are_refused(script: Script) -> None:
    scheduler = Scripted()
    engine = make_engine(scheduler, 4, host_blocks=8)
    for index in range(2):
        engine.submit(request(index, 12, 0), 0.0)
    before = snapshot(engine)
    scheduler.script = script
    with pytest.raises(PlanError):
        engine.plan(0.0)
    assert_unchanged(engine, before)


def one_decoding(blocks: int, prompt: int = 8) -> tuple[Scripted, Engine]:
    """One sequence in the decode batch whose next token needs a new block; another waits."""
    scheduler = Scripted()
    engine = make_engine(scheduler, blocks, host_blocks=8)
    engine.submit(request(0, prompt, 0), 0.0)
    engine.submit(request(1, 4, 0), 0.0)
    scheduler.script = lambda draft, seqs: _whole_prefill(draft, seqs[0])
    driver = BlockingDriver(engine, [], [100, 100])
    plan = driver._next_plan()
    assert plan is not None
    engine.complete(plan, Outcome(1.0, [1.0]))
    assert list(engine.batch.members) == scheduler.sequences[:1]
    return scheduler, engine


def _whole_prefill(draft: Draft, seq: Sequence) -> None:
    draft.try_admit(seq)
    draft.prefill(seq, seq.prefill_tokens)


@pytest.mark.parametrize("steps", [1, 100])
def test_decode_beyond_memory_is_refused(steps: int) -> None:
    scheduler, engine = one_decoding(blocks=2)
    before = snapshot(engine)
    scheduler.script = lambda draft, seqs: draft.decode(steps)
    with pytest.raises(PlanError):
        engine.plan(1.0)
    assert_unchanged(engine, before)


def test_blocks_taken_after_the_decode_are_refused() -> None:
    scheduler, engine = one_decoding(blocks=3)
    before = snapshot(engine)

    def script(draft: Draft, seqs: list[Sequence]) -> None:
        assert draft.decode(1) == 1
        assert draft.try_admit(seqs[1])

    scheduler.script = script
    with pytest.raises(PlanError):
        engine.plan(1.0)
    assert_unchanged(engine, before)


def test_slice_ends_before_the_shortage() -> None:
    scheduler, engine = one_decoding(blocks=5)
    allowed: list[int] = []
    scheduler.script = lambda draft, seqs: allowed.append(draft.decode())
    plan = engine.plan(1.0)
    assert plan is not None
    assert (allowed, plan.steps, plan.reserved_blocks) == ([12], 12, 3)
