"""An engine that forgets at any time decides as one that does not, and keeps none of the past."""

from __future__ import annotations

import gc
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property import exact_runs
from property.arms import ALL_ARMS, BOTH_CACHES, BOTH_LAGS
from property.exact_runs import build
from property.invariants import CANCELS, ImpatientDriver, assert_all_free
from property.test_traffic import QUICK, crowd
from property.workloads import JOBS, SETTINGS, Job, prompts

from superinfer.engine import Engine
from superinfer.plan import Plan
from superinfer.sequence import Sequence

pytestmark = pytest.mark.interpreted
"""They read every slot of a recorder."""

SEEDS = st.integers(0, 1 << 32)
MOST_KEPT = 60
"""Sequences that a run of a few hundred requests, 16 of them at a time, may leave in memory."""
OVERLOADED = ("rotating", "rotating-half-duplex", "fcfs-swap", "fcfs-background", "edf")


@dataclass
class ForgetfulDriver(ImpatientDriver):
    """It has its engine forget wherever a driver may call it, as often as `share` says."""

    rng: Random = field(default_factory=Random)
    share: float = 0.3
    forgot: Counter[str] = field(default_factory=Counter)
    """How often, by what was going on."""

    def _catch_up(self) -> None:
        self._maybe_forget()
        super()._catch_up()
        self._maybe_forget()

    def _plan(self) -> Plan | None:
        self._maybe_forget()
        plan = super()._plan()
        self._maybe_forget()
        return plan

    def _start(self, plan: Plan) -> None:
        self._maybe_forget()
        super()._start(plan)

    def _maybe_forget(self) -> None:
        if self.rng.random() < self.share:
            self._note_what_goes_on()
            before = self._last_tokens_s()
            self.engine.forget()
            assert self._last_tokens_s() == before
            assert self.engine.recorder.sequences == list(self.engine.live)
            assert len(self.engine.batch.end_s) < 2 and not self.engine.batch.runs.row

    def _last_tokens_s(self) -> dict[Sequence, float]:
        """When the live had their last tokens, as far as it is known."""
        batch = self.engine.batch
        known = [seq for seq in self.engine.live if seq.last_token_step < batch.known_steps]
        return {seq: batch.last_token_s(seq) for seq in known}

    def _note_what_goes_on(self) -> None:
        engine = self.engine
        told = {
            "at all": True,
            "beside a plan": engine.running is not None,
            "with the next one made": engine._ahead is not None,
            "with a step of unknown end": engine.batch.step > engine.batch.known_steps,
            "with ends deferred": bool(engine._deferred_ends),
            "with a stream set aside": any(
                seq.last_token_step >= engine.batch.first_step and seq not in engine.batch.members
                for seq in engine.live
            ),
        }
        self.forgot.update(what for what, so in told.items() if so)


def outcome(engine: Engine, driver: ImpatientDriver) -> list[object]:
    """What a run came to, beside its events."""
    recorder = engine.recorder
    counts = [
        getattr(recorder, name)
        for name in recorder.__slots__
        if name not in ("_samples", "next_sample_s", "partial", "sequences", "_interval_s")
        and not name.startswith("copied_")
    ]
    times = [(s.first_scheduled_s, s.first_token_s, s.finish_s) for s in driver.sequences]
    return [counts, times, engine.batch.step, engine.pool.peak_used, driver.now]


def run_both(
    make: Any, jobs: list[Job], cancels: list[tuple[float, int]], rng: Random
) -> ForgetfulDriver:
    """Run a workload with and without forgetting; returns the driver that forgot."""
    outputs, logs, found = [job.output for job in jobs], [list[Any](), list[Any]()], []
    for events, share in zip(logs, (0.0, 0.3), strict=True):
        engine = make(events.append)
        driver = ForgetfulDriver(
            engine, prompts(jobs), outputs, cancels=sorted(cancels), rng=rng, share=share
        )
        driver.run()
        found.append(outcome(engine, driver))
        assert_all_free(engine)
    assert logs[0] == logs[1]
    assert found[0] == found[1]
    return driver


@ALL_ARMS
@BOTH_LAGS
@BOTH_CACHES
@settings(SETTINGS, max_examples=4)
@given(jobs=JOBS, cancels=CANCELS, seed=SEEDS)
def test_it_changes_nothing(
    arm: str, lag: int, prefix: bool, jobs: list[Job], cancels: Any, seed: int
) -> None:
    run_both(lambda sink: build(arm, lag, prefix, sink), jobs, cancels, Random(seed))


@pytest.mark.parametrize("arm", OVERLOADED)
@BOTH_LAGS
def test_it_changes_nothing_while_caches_come_and_go(arm: str, lag: int) -> None:
    """Who waits on the host is told by its last token, whose step is forgotten meanwhile."""
    forgot: Counter[str] = Counter()

    def make(sink: Any) -> Engine:
        return exact_runs.build(arm, lag, False, sink, QUICK, 60, layers=2)

    for seed in range(8):
        rng = Random(seed)
        cancels = [(rng.uniform(0, 120), rng.randrange(16)) for _ in range(6)]
        forgot += run_both(make, crowd(seed), cancels, rng).forgot
    expected = {"at all", "beside a plan", "with ends deferred", "with a stream set aside"}
    if lag:
        expected |= {"with the next one made", "with a step of unknown end"}
    assert {what for what, times in forgot.items() if times > 3} == expected


def small_crowd(requests: int) -> list[Job]:
    """So many requests that come about as fast as they are served; some share their prompts."""
    rng = Random(7)
    return [
        Job(rng.choice((0, 1, 8)), rng.randint(1, 24), rng.randint(1, 8), row % 4, 0, True)
        for row in range(requests)
    ]


@ALL_ARMS
@BOTH_LAGS
def test_what_has_ended_leaves_memory(arm: str, lag: int) -> None:
    """No part of the engine keeps who has ended, but a few for a while."""
    jobs = small_crowd(400)
    engine = build(arm, lag, "offload" in arm)
    driver = ForgetfulDriver(engine, prompts(jobs), [job.output for job in jobs], share=0.05)
    driver.run()
    assert driver.forgot["at all"] > 10
    driver.sequences.clear()
    engine.forget()
    gc.collect()
    assert sum(type(thing) is Sequence for thing in gc.get_objects()) < MOST_KEPT
