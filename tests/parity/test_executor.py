"""Parity: the simulator, and the executor with given step times, leave the same events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("torch")

from executor_runs import IdleModel, Rig, forced, sizes_for
from hypothesis import given, settings
from parity.test_drivers import ARMS as DRIVER_ARMS
from parity.test_drivers import COST, half, workload
from property.arms import ARMS as EXACT_ARMS
from property.exact_runs import FAKE
from property.workloads import JOBS, SETTINGS, Job, prompts

from sim.driver import simulate
from sim.oracle import Oracle
from superinfer.engine import Engine

Told = tuple[list[str], dict[float, int]]

BLOCKS = 24
TOKENS = 4
QUEUED = 2
"""In place of a lag: 1, with steps queued before the tokens of the one before are read."""


def engine_for(
    arm: tuple[Any, Any], cost: Any, believed: Any = None, **more: Any
) -> tuple[Engine, IdleModel, list[Any]]:
    scheduler, memory = arm
    events: list[Any] = []
    model = IdleModel(TOKENS)
    sizes = sizes_for(model.layout, memory, BLOCKS, max_model_len=512, **more)
    return Engine(scheduler, memory, cost, sizes, events.append, believed), model, events


def told(events: list[Any]) -> tuple[list[str], dict[float, int]]:
    """Events, and apart from them how many cached blocks go for each plan (all bear its time): the
    simulator drops them when a slice is over, the executor before each of its steps.
    """
    gone = Counter[float]()
    for event in events:
        if event[1] == "evict":
            gone[event[0]] += event[3]
    return [repr(event) for event in events if event[1] != "evict"], dict(gone)


def both(
    make: Any,
    cost: Any,
    jobs: Any,
    *,
    ahead: bool = False,
    believed: Callable[[], Any] = lambda: None,
    **more: Any,
) -> tuple[Told, Told, Rig]:
    """Events of the simulator and of the executor, and the executor itself."""
    requests, output_tokens = jobs
    engine, _, simulated = engine_for(make(), cost, believed(), **more)
    simulate(engine, requests, Oracle(output_tokens, 512))
    engine, model, executed = engine_for(make(), cost, believed(), **more)
    rig = Rig(engine, model, ahead)
    rig.run(requests, forced(requests, output_tokens))
    return told(simulated), told(executed), rig


def slow(value: Any) -> Any:
    """One more value of a parameter, for the slow tests."""
    return pytest.param(value, marks=pytest.mark.slow)


FOLLOWED = (
    "vllm",
    "vllm-swap",
    "vllm-chunked",
    "vllm-v1",
    "fcfs",
    "fcfs-background",
    "fcfs-tier",
    "fcfs-tier-background",
    "priority",
    "rotating",
    "rotating-slo-aware",
)


@pytest.mark.parametrize("seed", [0, slow(1)])
@pytest.mark.parametrize("prefix", [slow(False), True])
@pytest.mark.parametrize("lag", [0, slow(1), QUEUED])
@pytest.mark.parametrize("arm", FOLLOWED)
def test_same_events(arm: str, lag: int, prefix: bool, seed: int) -> None:
    simulated, executed, rig = both(
        DRIVER_ARMS[arm],
        COST,
        workload(seed),
        ahead=lag == QUEUED,
        lag=min(lag, 1),
        prefix_caching=prefix,
    )
    assert executed == simulated
    ends = ("'finish'", "'reject'", "'fail'")
    assert sum(any(end in event for end in ends) for event in executed[0]) == 40
    assert rig.manager.follows > 40


@pytest.mark.parametrize("lag", [0, 1, QUEUED])
@pytest.mark.parametrize("arm", ["rotating", "rotating-slo-aware", slow("qoserve")])
def test_same_events_where_step_times_are_learned(arm: str, lag: int) -> None:
    options: Any = {"ahead": lag == QUEUED, "lag": min(lag, 1), "prefix_caching": True}
    simulated, executed, rig = both(DRIVER_ARMS[arm], COST, workload(0), believed=half, **options)
    assert executed == simulated
    learned = rig.engine.learned
    assert learned is not None and learned.decodes.factor > 1.1


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize(
    ("arm", "meets"),
    [("fcfs-background", True), ("fcfs-tier-background", True), ("rotating", False)],
)
def test_same_events_where_copies_slow_each_other(arm: str, meets: bool, lag: int) -> None:
    """In `rotating` no two copies happen to meet on this workload, so nothing is slowed."""
    options: Any = {"lag": lag, "prefix_caching": True}
    alone, _, _ = both(DRIVER_ARMS[arm], COST, workload(0), **options)
    simulated, executed, _ = both(
        DRIVER_ARMS[arm], replace(COST, duplex=2.0), workload(0), **options
    )
    assert executed == simulated
    assert (simulated != alone) == meets


@pytest.mark.slow
@pytest.mark.parametrize("lag", [0, 1, QUEUED])
@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize(
    "arm",
    [
        "rotating-dirty",
        "fcfs-shrinking",
        "vllm-shrinking",
        "chunked-slo-aware",
        "fcfs-background",
        "vllm-cached",
        "rotating-cached",
        "vllm-v1",
    ],
)
@settings(SETTINGS, derandomize=True)
@given(jobs=JOBS)
def test_same_events_of_random_workloads(arm: str, prefix: bool, lag: int, jobs: list[Job]) -> None:
    workload_of_jobs = prompts(jobs), [max(1, job.output) for job in jobs]
    simulated, executed, _ = both(
        EXACT_ARMS[arm],
        FAKE,
        workload_of_jobs,
        ahead=lag == QUEUED,
        lag=min(lag, 1),
        prefix_caching=prefix,
    )
    assert executed == simulated
