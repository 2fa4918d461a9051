"""`rotating` with a fast link, so that it rotates: slices, rollbacks, both drivers, tight hosts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from harness import BlockingDriver
from hypothesis import given, settings
from hypothesis import strategies as st
from property import exact_runs
from property.arms import BOTH_CACHES, BOTH_LAGS
from property.exact_runs import (
    FAKE,
    assert_exact,
    one_by_one,
    play,
    step_by_step,
)
from property.invariants import (
    CANCELS,
    ImpatientDriver,
    Watch,
    assert_all_free,
    assert_each_ends_once,
    ceil_div,
)
from property.test_draft import Hesitant
from property.workloads import JOBS, SETTINGS, Job, prompts

from sim.driver import simulate
from sim.oracle import Oracle
from superinfer.engine import Engine
from superinfer.plan import Plan

QUICK = replace(FAKE, copy=2**-5, per_byte=2**-7)
"""Over this link a copy out and back takes a fraction of a step, and computing again more than
one."""
ROTATING = pytest.mark.parametrize(
    "arm", ["rotating", "rotating-half-duplex", "rotating-plain", "rotating-dirty"]
)
HOSTS = st.sampled_from([12, 30, 400])
"""Host blocks; with few of them copies have to give way."""


def build(arm: str, lag: int, host_blocks: int, prefix: bool, sink: Any) -> Engine:
    return exact_runs.build(arm, lag, prefix, sink, QUICK, host_blocks, layers=2)


@pytest.mark.interpreted
@pytest.mark.parametrize("change", [step_by_step, one_by_one])
@ROTATING
@BOTH_LAGS
@settings(SETTINGS, max_examples=10)
@given(jobs=JOBS, host_blocks=HOSTS, prefix=st.booleans())
def test_slices_are_exact(
    change: Any, arm: str, lag: int, jobs: list[Job], host_blocks: int, prefix: bool
) -> None:
    engine = {"arm": arm, "lag": lag, "prefix": prefix, "host_blocks": host_blocks}
    assert_exact(jobs, change, scale_s=1.0, cost=QUICK, layers=2, **engine)


@pytest.mark.interpreted
@ROTATING
@BOTH_LAGS
@settings(SETTINGS, max_examples=8)
@given(jobs=JOBS, seed=st.integers(0, 1 << 32), host_blocks=HOSTS)
def test_hesitation_leaves_no_trace(
    arm: str, lag: int, jobs: list[Job], seed: int, host_blocks: int
) -> None:
    """The random decisions that are taken back need room on the host: the real ones do, too."""
    logs: list[list[Any]] = [[], []]
    for events, hesitates in zip(logs, (False, True), strict=True):
        engine = build(arm, lag, host_blocks + 4000, False, events.append)
        if hesitates:
            scheduler = Hesitant(engine.scheduler, Random(seed))
            scheduler.engine, engine.scheduler = engine, scheduler
        BlockingDriver(engine, prompts(jobs), [job.output for job in jobs]).run()
    assert logs[0] == logs[1]


@pytest.mark.interpreted
@ROTATING
@BOTH_LAGS
@BOTH_CACHES
@settings(SETTINGS, max_examples=6)
@given(jobs=JOBS, cancels=CANCELS, host_blocks=HOSTS)
def test_invariants_with_cancels(
    arm: str, lag: int, prefix: bool, jobs: list[Job], cancels: Any, host_blocks: int
) -> None:
    """Beside all others: no rotation copies more than there is, and the counters add up."""
    events: list[Any] = []
    engine = build(arm, lag, host_blocks, prefix, events.append)
    Watch(engine)
    outputs = [job.output for job in jobs]
    ImpatientDriver(engine, prompts(jobs), outputs, check_copies, cancels=sorted(cancels)).run()
    assert_each_ends_once(events, jobs)
    assert_all_free(engine)
    record = engine.recorder.build(engine)
    used = record.write_through_useful_bytes + record.write_through_wasted_bytes
    assert used == record.write_through_bytes == record.cache_d2h_bytes
    prefetched = record.prefetch_useful_bytes + record.prefetch_wasted_bytes
    assert prefetched == record.extra.get("prefetched_blocks", 0)
    assert record.losing_offloads == sum(event[1] == "no_offload" for event in events)


def check_copies(engine: Engine, plan: Plan) -> None:
    for transfer in (*plan.before_step, *plan.background):
        seq = transfer.sequence
        if seq is None:
            assert plan.decodes and 0 < transfer.blocks <= engine.pool.total
        else:
            whole = ceil_div(seq.computed_tokens, engine.block_tokens)
            assert 0 <= transfer.blocks <= whole
        assert transfer.pieces == transfer.blocks * engine.scheduler.copies_per_block


@pytest.mark.parametrize("prefix", [False, True])
@BOTH_LAGS
@ROTATING
def test_both_drivers_log_the_same(arm: str, lag: int, prefix: bool) -> None:
    for seed in range(4):
        jobs = crowd(seed)
        outputs = [job.output for job in jobs]
        logs: list[list[Any]] = [[], []]
        engines = [build(arm, lag, 60, prefix, events.append) for events in logs]
        simulate(engines[0], prompts(jobs), Oracle(outputs))
        BlockingDriver(engines[1], prompts(jobs), outputs).run()
        assert repr(logs[0]) == repr(logs[1])


def crowd(seed: int) -> list[Job]:
    """More than fit, with long answers."""
    rng = Random(seed)
    return [
        Job(
            rng.choice((0, 0.25, 1)),
            rng.randint(1, 36),
            rng.randint(10, 60),
            rng.randint(0, 3),
            rng.randint(0, 1),
            rng.random() < 0.5,
        )
        for _ in range(16)
    ]


def test_these_runs_do_what_is_tested() -> None:
    """They rotate, write through to use and in vain, prefetch, and give copies up."""
    kinds: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for seed in range(16):
        for host_blocks in (12, 400):
            engine = {"arm": "rotating", "lag": 0, "prefix": False, "host_blocks": host_blocks}
            run = play(crowd(seed), None, scale_s=1.0, cost=QUICK, layers=2, **engine)
            kinds.update(event[1] for event in run.events)
            for what in ("write_through_useful_bytes", "write_through_wasted_bytes"):
                totals[what] += getattr(run.record, what)
            totals["prefetch_useful_bytes"] += run.record.prefetch_useful_bytes
    assert min(kinds[kind] for kind in ("rotate_out", "rotate_in", "write_through")) > 50
    assert min(totals.values()) > 50
