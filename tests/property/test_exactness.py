"""Exactness: time slices and running sums give what step by step and one by one would give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from property.arms import ALL_ARMS, ARMS, BOTH_CACHES, BOTH_LAGS
from property.exact_runs import FAKE, assert_exact, close, evicted, one_by_one, play, step_by_step
from property.workloads import JOBS, SETTINGS, Job

from superinfer.costs import (
    CalibratedCost,
    Chunk,
    build_cost,
    list_profiles,
    load_profile,
    load_shape,
)
from superinfer.costs.profile import Kernel
from superinfer.engine import Engine
from superinfer.lab.timelines.replay import replay

UNEVEN = ("rtxpro6000", "llama-3.1-8b")
UNEVEN_ARMS = (
    "vllm-swap",
    "chunked",
    "vllm-v1",
    "fcfs-swap",
    "fcfs-background",
    "sglang-mixed",
    "tensorrt-max",
    "fastserve",
    "andes",
    "rotasched",
    "flexgen",
    "rotating",
    "rotating-shrinking",
    "vllm-cached",
)
"""Those that take members off the batch in different ways, and bits from them."""


@pytest.mark.interpreted
@ALL_ARMS
@BOTH_LAGS
@BOTH_CACHES
@SETTINGS
@given(jobs=JOBS)
def test_slices_are_exact(arm: str, lag: int, prefix: bool, jobs: list[Job]) -> None:
    assert_exact(jobs, step_by_step, arm=arm, lag=lag, prefix=prefix, scale_s=1.0)


@pytest.mark.interpreted
@ALL_ARMS
@BOTH_LAGS
@BOTH_CACHES
@SETTINGS
@given(jobs=JOBS)
def test_running_sums_are_exact(arm: str, lag: int, prefix: bool, jobs: list[Job]) -> None:
    assert_exact(jobs, one_by_one, arm=arm, lag=lag, prefix=prefix, scale_s=1.0)


@pytest.fixture(scope="module", params=["calibrated", "roofline"])
def real_cost(request: pytest.FixtureRequest) -> Any:
    return build_cost("llama-3.1-8b", "a100-80g", costs=request.param)


@pytest.mark.interpreted
@pytest.mark.parametrize("change", [step_by_step, one_by_one])
@ALL_ARMS
@BOTH_LAGS
@settings(SETTINGS, max_examples=5)
@given(jobs=JOBS)
def test_exact_with_real_costs(
    real_cost: Any, change: Callable[[Engine], None], arm: str, lag: int, jobs: list[Job]
) -> None:
    options: Any = {"arm": arm, "lag": lag, "prefix": True, "cost": real_cost}
    assert_exact(jobs, change, scale_s=0.015, **options)


@pytest.fixture(scope="module", params=[None, 1.3], ids=["mean", "busy"])
def uneven_cost(request: pytest.FixtureRequest) -> CalibratedCost:
    """A measured profile where the longest context of a batch takes much beside the step: what it
    is above the mean, or above 1.3 mean ones, which changes from step to step.
    """
    path = next(path for device, model, _, path in list_profiles() if (device, model) == UNEVEN)
    profile = load_profile(path)
    table = Kernel({"sequences": (1.0, 8.0)}, (1e-7, 3e-7))
    kernels = profile.kernels | {"attention_uneven": table}
    if request.param is not None:
        busy = tuple(request.param * value for value in (1e-7, 3e-7))
        kernels |= {"attention_busy": Kernel({"sequences": (1.0, 8.0)}, busy)}
    return CalibratedCost(replace(profile, kernels=kernels), load_shape(profile.model))


@pytest.mark.interpreted
@pytest.mark.parametrize("change", [step_by_step, one_by_one])
@pytest.mark.parametrize("arm", UNEVEN_ARMS)
@BOTH_LAGS
@settings(SETTINGS, max_examples=5)
@given(jobs=JOBS)
def test_exact_with_unequal_contexts(
    uneven_cost: CalibratedCost,
    change: Callable[[Engine], None],
    arm: str,
    lag: int,
    jobs: list[Job],
) -> None:
    options: Any = {"arm": arm, "lag": lag, "prefix": True, "cost": uneven_cost}
    assert_exact(jobs, change, scale_s=0.015, **options)


@pytest.mark.interpreted
def test_victims_do_not_wait_for_their_own_growth() -> None:
    """Who fits once victims are gone comes in at once, not when they have grown."""
    jobs = [
        Job(0, 19, 12, 2, 0, False),
        Job(1, 19, 25, 0, 1, False),
        Job(0, 3, 30, 2, 0, True),
        Job(0.25, 22, 33, 3, 1, True),
        Job(3.5, 11, 17, 0, 0, False),
        Job(0, 35, 4, 0, 0, True),
    ]
    assert_exact(jobs, step_by_step, arm="priority", lag=0, prefix=True, scale_s=1.0)


@pytest.mark.interpreted
def test_a_victim_whose_last_token_is_under_way() -> None:
    """With lag 1 a request may leave before the step that gives its latest token has ended."""
    jobs = [
        Job(0, 1, 1, 0, 0, False),
        Job(0, 1, 1, 0, 0, False),
        Job(0, 16, 29, 0, 0, True),
        Job(0, 19, 30, 0, 0, True),
    ]
    assert_exact(jobs, step_by_step, arm="rotating", lag=1, prefix=False, scale_s=1.0)


@pytest.mark.interpreted
def test_a_slice_that_starts_after_its_time_has_run_out() -> None:
    """With lag 1 a slice is planned a step ahead: the third request ages in the step before."""
    jobs = [
        Job(0.25, 10, 30, 2, 0, True),
        Job(1, 2, 33, 3, 1, False),
        Job(3.5, 28, 26, 1, 0, False),
    ]
    assert_exact(jobs, step_by_step, arm="rotating", lag=1, prefix=True, scale_s=1.0)


def test_workload_is_hard() -> None:
    """The comparisons mean something: slices are long and memory is short."""
    jobs = [Job(0.25 * (i % 3), 10 + i % 7, 30 + i % 5, i % 3, 0, False) for i in range(12)]
    run = play(jobs, None, arm="fcfs", lag=0, prefix=True, scale_s=1.0)
    assert run.record.table.preemptions.sum() > 3
    assert run.record.steps > 2 * run.record.plans
    assert evicted(run.events)[-1] > 10
    assert 0.1 < run.coverage.extrapolated_share < 0.9
    assert len(run.coverage.left_range) == len(FAKE.limits.entries)


@pytest.mark.parametrize(
    "arm", [arm for arm in ARMS if any(name in arm for name in ("tier", "tensorrt", "offload"))]
)
def test_host_tiers_are_busy(arm: str) -> None:
    """The comparisons mean something for cached blocks on the host, too."""
    jobs = [
        Job(7 * (i % 3 == 0), 20 + i % 9, 4 + i % 7, 1 + i % 3, 0, i % 2 > 0) for i in range(60)
    ]
    run = play(jobs, None, arm=arm, lag=0, prefix=True, scale_s=1.0)
    kinds = Counter(event[1] for event in run.events)
    assert kinds["load"] > 2
    assert kinds["offload"] + kinds["backup"] > 10
    assert run.record.table.h2d_bytes.sum() > 0 < run.record.cache_d2h_bytes


def test_copies_that_a_step_waits_for_are_not_booked() -> None:
    jobs = [Job(0.25 * (i % 3), 10 + i % 7, 30 + i % 5, i % 3, 0, False) for i in range(12)]
    run = play(jobs, None, arm="fcfs-swap", lag=0, prefix=False, scale_s=1.0)
    assert run.record.table.h2d_bytes.sum() > 0
    seconds = [
        FAKE.host
        + FAKE.step_s([Chunk(n, c) for _, n, c in step.chunks], step.decodes, step.context_tokens)
        for step in replay(run.events, ()).steps
    ]
    assert close(run.coverage.total_s, sum(seconds))


@pytest.mark.interpreted
def test_the_turn_passes_between_weights_inside_a_slice() -> None:
    """Two that wait, of different weights: whose slack over weight is less changes with time."""
    idle = Job(0, 1, 1, 0, 0, False)
    jobs = [
        *[idle] * 7,
        Job(30, 1, 1, 0, 0, False),
        Job(0, 8, 27, 2, 1, True),
        Job(0, 12, 15, 3, 0, True),
        Job(1, 31, 14, 2, 0, True),
        Job(3.5, 1, 18, 0, 0, True),
        idle,
        Job(0, 1, 17, 0, 0, True),
    ]
    cost = build_cost("llama-3.1-8b", "a100-80g", costs="roofline")
    options = {"arm": "rotating-plain", "lag": 0, "prefix": True, "cost": cost}
    assert_exact(jobs, step_by_step, scale_s=0.015, **options)
