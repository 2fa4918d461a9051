"""Invariants of the engine, checked by brute force after every plan and every completion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from harness import FakeCost
from hypothesis import given, settings
from hypothesis import strategies as st
from property.arms import ALL_ARMS, BOTH_CACHES, BOTH_LAGS
from property.exact_runs import FAKE, build
from property.invariants import (
    CANCELS,
    ImpatientDriver,
    Watch,
    assert_all_free,
    assert_each_ends_once,
)
from property.workloads import JOBS, LONG_JOBS, SETTINGS, Job, prompts

from sim.driver import simulate
from sim.oracle import Oracle
from superinfer.engine import Engine

pytestmark = pytest.mark.interpreted
"""They watch `Engine.plan`, which is replaced for that."""

SIZES = st.sampled_from([8, 16, 24])
HOSTS = st.sampled_from([6, 20, 400])
LINKS = st.sampled_from([0.0, 2**-5, 0.5, 7.0])


@ALL_ARMS
@BOTH_LAGS
@BOTH_CACHES
@SETTINGS
@given(jobs=JOBS)
def test_invariants(arm: str, lag: int, prefix: bool, jobs: list[Job]) -> None:
    events: list[Any] = []
    engine = build(arm, lag, prefix, events.append)
    watch = Watch(engine)
    simulate(engine, prompts(jobs), Oracle([job.output for job in jobs]))
    assert watch.checks > 0 and watch.plans == []
    assert_each_ends_once(events, jobs)
    assert_all_free(engine)


@ALL_ARMS
@BOTH_LAGS
@settings(SETTINGS, max_examples=6)
@given(jobs=JOBS, stop_s=st.sampled_from([0.5, 2.0, 5.0, 9.5, 16.0, 31.0]), prefix=st.booleans())
def test_a_run_that_is_cut_off_holds_nothing(
    arm: str, lag: int, jobs: list[Job], stop_s: float, prefix: bool
) -> None:
    """But for copies under way; the plan that was made ahead gives back what it took."""
    engine = build(arm, lag, prefix)
    watch = Watch(engine)
    simulate(engine, prompts(jobs), Oracle([job.output for job in jobs]), stop_s=stop_s)
    assert not engine.live
    watch.plans.clear()
    watch.check()
    if not any(seq.transfer for seq in engine.recorder.sequences):
        assert engine.pool.referenced == engine.host.used == engine.resident == 0


@ALL_ARMS
@BOTH_LAGS
@BOTH_CACHES
@SETTINGS
@given(jobs=JOBS, cancels=CANCELS)
def test_invariants_with_cancels(
    arm: str, lag: int, prefix: bool, jobs: list[Job], cancels: list[tuple[float, int]]
) -> None:
    events: list[Any] = []
    engine = build(arm, lag, prefix, events.append)
    watch = Watch(engine)
    outputs = [job.output for job in jobs]
    ImpatientDriver(engine, prompts(jobs), outputs, cancels=sorted(cancels)).run()
    assert watch.plans == []
    assert_each_ends_once(events, jobs)
    assert_all_free(engine)


@ALL_ARMS
@BOTH_LAGS
@SETTINGS
@given(jobs=LONG_JOBS, cancels=CANCELS, blocks=SIZES, host_blocks=HOSTS, link_s=LINKS)
def test_invariants_where_prompts_fill_the_memory(
    arm: str,
    lag: int,
    jobs: list[Job],
    cancels: list[tuple[float, int]],
    blocks: int,
    host_blocks: int,
    link_s: float,
) -> None:
    """Who waits may need what all others hold, and those may have no room on the host."""
    events: list[Any] = []
    cost = replace(FAKE, copy=link_s, per_byte=link_s / 16)
    engine = build(arm, lag, True, events.append, cost, host_blocks, blocks)
    watch = Watch(engine)
    outputs = [job.output for job in jobs]
    ImpatientDriver(engine, prompts(jobs), outputs, cancels=sorted(cancels)).run()
    assert watch.plans == []
    assert_each_ends_once(events, jobs)
    assert_all_free(engine)


@pytest.mark.parametrize(
    ("arm", "lag"),
    [
        ("fcfs-background", 0),
        ("fcfs-background", 1),
        ("vllm-v1-offload", 0),
        ("vllm-v1-offload-answers", 0),
        ("vllm-v1-offload-arc", 0),
    ],
)
@settings(SETTINGS, max_examples=30)
@given(jobs=JOBS, cancels=CANCELS, link_s=st.sampled_from([0.0, 0.5, 7.0]))
def test_invariants_with_slow_links(
    arm: str, lag: int, jobs: list[Job], cancels: list[tuple[float, int]], link_s: float
) -> None:
    """Copies that take several steps: requests end while their cache is on the way."""
    events: list[Any] = []
    cost = FakeCost(step=1.0, copy=link_s)
    engine = build(arm, lag, True, events.append, cost)
    Watch(engine)
    outputs = [job.output for job in jobs]
    ImpatientDriver(engine, prompts(jobs), outputs, cancels=sorted(cancels)).run()
    assert_each_ends_once(events, jobs)
    assert_all_free(engine)


@pytest.mark.parametrize(
    ("arm", "lag", "kind"),
    [
        ("fcfs-background", 0, "rotate_in"),
        ("fcfs-background", 1, "rotate_in"),
        ("vllm-v1-offload", 0, "load"),
    ],
)
def test_cancel_while_the_cache_is_on_its_way(arm: str, lag: int, kind: str) -> None:
    """Every copy back of a run in turn meets a client who gives up before it lands."""
    groups, count = (3, 18) if kind == "load" else (1, 9)
    jobs = [Job(0.25 * (i % 3), 10 + i % 7, 20 + i % 5, i % groups, 0, False) for i in range(count)]

    def run(cancels: list[tuple[float, int]]) -> tuple[Engine, list[Any]]:
        events: list[Any] = []
        engine = build(arm, lag, True, events.append, FakeCost(copy=7.0))
        Watch(engine)
        outputs = [job.output for job in jobs]
        ImpatientDriver(engine, prompts(jobs), outputs, cancels=cancels).run()
        assert_each_ends_once(events, jobs)
        assert_all_free(engine)
        return engine, events

    starts = [(event[0], int(event[2][1:])) for event in run([])[1] if event[1] == kind]
    assert len(starts) > 3
    for start_s, index in starts:
        engine, events = run([(start_s + 3.5, index)])
        seq = engine.recorder.sequences[index]
        landed = [event for event in events if event[1:3] == ("transfer", f"r{index}")]
        assert seq.outcome == "cancelled" and seq.finish_s is not None
        assert landed[-1][0] > seq.finish_s
