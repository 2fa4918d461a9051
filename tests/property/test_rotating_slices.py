"""`rotating`: a chunk repeated over a slice gives the schedule of deciding step by step."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from harness import FakeCost, make_engine, request
from hypothesis import given, settings
from hypothesis import strategies as st
from property.exact_runs import token_times
from property.invariants import ImpatientDriver
from property.workloads import SETTINGS

from superinfer.request import SLO, SLOClass
from superinfer.schedulers.rotating import RotatingScheduler

CLASSES = (
    SLOClass("none"),
    SLOClass("first", SLO(ttft_s=20.0), weight=2.0),
    SLOClass("whole", SLO(e2el_s=250.0)),
    SLOClass("paced", SLO(ttft_s=8.0, tpot_s=3.0), delivery="paced"),
)
JOBS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0, 2.5, 10.0, 40.0]),
        st.one_of(st.integers(1, 20), st.integers(60, 900)),
        st.integers(1, 120),
        st.sampled_from(CLASSES),
        st.sampled_from("aab"),
    ),
    min_size=2,
    max_size=9,
)
CANCELS = st.lists(st.tuples(st.floats(0.0, 200.0), st.integers(0, 8)), max_size=3)


def play(jobs: Any, cancels: Any, step_by_step: bool, lag: int, budget: int, **chosen: Any) -> Any:
    scheduler = RotatingScheduler(
        max_num_seqs=4, max_num_batched_tokens=budget, tile_tokens=0, watermark=0.0, **chosen
    )
    cost = FakeCost(per_chunk_token=2**-6, per_context_token=2**-8, copy=0.5)
    engine = make_engine(scheduler, 400, cost=cost, lag=lag, host_blocks=1000)
    requests, now = [], 0.0
    for index, (gap_s, prompt, _, slo_class, tenant) in enumerate(jobs):
        now += gap_s
        more = {"slo": slo_class.slo, "slo_class": slo_class, "tenant": tenant, "max_tokens": 300}
        requests.append(request(index, prompt, 0, now, **more))
    driver = ImpatientDriver(engine, requests, [job[2] for job in jobs], cancels=sorted(cancels))
    name = "_one_prefill_takes_all"
    if step_by_step:
        with patch.object(RotatingScheduler, name, lambda self, draft, budget: False):
            driver.run()
    else:
        driver.run()
    record = engine.recorder.build(engine)
    times = [token_times(record, row) for row in range(len(jobs))]
    return times, scheduler._tenants, record.plans


@pytest.mark.interpreted
@settings(SETTINGS, max_examples=150)
@given(
    jobs=JOBS,
    cancels=CANCELS,
    lag=st.sampled_from([0, 1]),
    budget=st.sampled_from([8, 16, 70, 130]),
    max_wait_s=st.sampled_from([4.0, 30.0]),
    aging=st.booleans(),
)
def test_slices_of_chunks_change_nothing(
    jobs: Any, cancels: Any, lag: int, budget: int, max_wait_s: float, aging: bool
) -> None:
    """With lag 1 whoever gives up in the middle of a slice ends a step later: no cancels then."""
    told = (lag, budget)
    chosen = {"max_wait_s": max_wait_s, "max_wait_ttfts": 1.0, "aging": aging}
    cancels = [] if lag else cancels
    times, tenants, plans = play(jobs, cancels, False, *told, **chosen)
    expected, counters, most = play(jobs, cancels, True, *told, **chosen)
    for row, wanted in zip(times, expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-9)
    assert plans <= most
    for name in {job[4] for job in jobs}:
        assert tenants.service(name, 0) == counters.service(name, 0)
