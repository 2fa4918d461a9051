"""Host time with lag 1: beside a GPU, and before each step of a CPU, which does all of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from executor.clocks.clock import step_seconds
from sim.run import run_simulation
from superinfer.costs import build_cost, find_device, hides_host, list_profiles, load_shape
from superinfer.lab.config import load_config
from superinfer.request import Request
from traces.workload import Workload

HOST_S = 0.002
ANSWERS = [40, 40]


def profile(folder: Path, device: str, between_s: float = 0.0) -> Path:
    """A shipped one as if it were of this device, with host times of its own."""
    shipped = next(each for each in list_profiles() if each[:2] == ("h100", "llama-3.1-8b"))
    data = json.loads(shipped.path.read_text())
    data["device"] = device
    data["host"] = {"step_s": HOST_S, "per_sequence_s": 0.0, "origin": "measured"}
    data["host"]["between_s"] = between_s
    path = folder / f"{device}-{between_s}.json"
    path.write_text(json.dumps(data))
    return path


def mean_step_s(costs: Path, device: str, lag: int) -> float:
    """Of the decodes of two requests that come and end together."""
    requests = [Request(f"r{i}", 0.0, 100, 500, index=i) for i in range(len(ANSWERS))]
    config = load_config(
        None,
        trace="made up",
        scheduler="vllm",
        memory="lru",
        device=device,
        costs=str(costs),
        kv_blocks=100,
        lag=lag,
    )
    table = run_simulation(config, Workload(requests, ANSWERS)).record.table
    return float(table.finish_s[0] - table.first_token_s[0]) / (ANSWERS[0] - 1)


@pytest.mark.parametrize(("device", "hidden"), [("h100", True), ("cpu", False)])
def test_what_a_host_that_plans_ahead_hides(tmp_path: Path, device: str, hidden: bool) -> None:
    costs = profile(tmp_path, device)
    at_once, ahead = (mean_step_s(costs, device, lag) for lag in (0, 1))
    assert at_once - ahead == pytest.approx(HOST_S if hidden else 0.0, abs=1e-5)


@pytest.mark.parametrize(("device", "hidden"), [("h100", True), ("cpu", False)])
def test_the_price_of_a_step(tmp_path: Path, device: str, hidden: bool) -> None:
    """By which the executor's runs are judged step by step: as the simulator counts."""
    costs = str(profile(tmp_path, device))
    cost = build_cost(load_shape("llama-3.1-8b"), find_device(device, costs), 1, costs)
    assert [hides_host(cost, lag) for lag in (0, 1)] == [False, hidden]
    at_once, ahead = (step_seconds(cost, lag, (), 8, 8000) for lag in (0, 1))
    assert at_once - ahead == pytest.approx(HOST_S if hidden else 0.0)


@pytest.mark.parametrize("lag", [0, 1])
def test_steps_that_are_queued_ahead_have_something_between_them(tmp_path: Path, lag: int) -> None:
    """In whole runs and in the price of a step alike; nothing where none is queued."""
    files = [profile(tmp_path, "h100", between_s) for between_s in (0.0, 0.0005)]
    ran = [mean_step_s(costs, "h100", lag) for costs in files]
    shape = load_shape("llama-3.1-8b")
    models = [build_cost(shape, find_device("h100", str(c)), 1, str(c)) for c in files]
    priced = [step_seconds(cost, lag, (), 8, 8000) for cost in models]
    for without, with_it in (ran, priced):
        assert with_it - without == pytest.approx(0.0005 * lag, abs=1e-9)
