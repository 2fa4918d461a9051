"""Scenarios M and C as configurations: what is short in each, and the backlog that always waits."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from experiments.scenarios.settings import MACHINE
from experiments.studykit.kv_memory import fitting_tokens
from sim.run import build_engine
from sim.summaries import simulated
from sim.workload import load_workload
from superinfer.costs import Chunk, StepCost
from superinfer.errors import InputError
from superinfer.lab.config import Config, bundled_configs, load_config
from superinfer.metrics import RunMetrics

ARMS = {
    "priority": ("priority", ()),
    "vllm": ("vllm", ()),
    "vllm-prefill-first": ("vllm", ("scheduler.chunked=false",)),
    "fcfs": ("fcfs", ()),
}
EACH = [
    pytest.param(arm, marks=[pytest.mark.slow] if arm in ("vllm-prefill-first", "fcfs") else [])
    for arm in ARMS
]
WINDOW_S = (200.0, 800.0)


def config(scenario: str, arm: str, *settings: str, seed: int = 0) -> Config:
    scheduler, own = ARMS[arm]
    return load_config(scenario, [*own, *settings], scheduler=scheduler, seed=seed)


@cache
def run(scenario: str, arm: str, *settings: str, seed: int = 0) -> tuple[RunMetrics, Any]:
    chosen = config(scenario, arm, *settings, seed=seed)
    return simulated(chosen, load_workload(chosen))


def cost_model(scenario: str, *settings: str) -> StepCost:
    return build_engine(config(scenario, "fcfs", *settings))[1]


def kv_blocks(scenario: str) -> int:
    """What fits: blocks of 16 tokens."""
    blocks: int = run(scenario, "priority")[1]["run"]["kv_blocks"]
    return blocks


def batch_tokens_per_s(scenario: str, arm: str, *settings: str) -> float:
    rate: float = run(scenario, arm, *settings)[1]["classes"]["batch"]["output_throughput"]
    return rate


def gain_from_twice_the_memory(scenario: str, arm: str) -> float:
    more = f"run.kv_blocks={2 * kv_blocks(scenario)}"
    return batch_tokens_per_s(scenario, arm, more) / batch_tokens_per_s(scenario, arm)


def test_the_bundled_configurations() -> None:
    assert list(bundled_configs()) == ["scenario-c", "scenario-m"]
    memory, compute = load_config("scenario-m").run, load_config("scenario-c").run
    for chosen in (memory, compute):
        assert (chosen.model, chosen.device, chosen.tp) == ("llama-3.1-70b", "a100-80g", 4)
        assert (chosen.backlog, chosen.duration_s) == ({"batch": 64}, 900)
        assert (tuple(chosen.window_s), chosen.block_tokens) == (WINDOW_S, 16)
    fitting = fitting_tokens(*MACHINE, "run.block_tokens=16") // 16
    assert (memory.kv_blocks, compute.kv_blocks) == (4096, fitting)
    with pytest.raises(InputError, match="scenario-k: expected a TOML file or one of scenario-c,"):
        load_config("scenario-k")


@pytest.mark.parametrize("seed", range(5))
def test_demand_for_memory_is_twice_what_fits(seed: int) -> None:
    """What requests hold when all memory is there, over the window, by the arm that holds least."""
    timeline = run("scenario-c", "priority", seed=seed)[0].record.timeline
    inside = (timeline.t_s >= WINDOW_S[0]) & (timeline.t_s < WINDOW_S[1])
    assert timeline.referenced_blocks[inside].mean() > 2 * kv_blocks("scenario-m")


@pytest.mark.parametrize("arm", EACH)
def test_memory_is_short_in_m(arm: str) -> None:
    """Twice the memory is worth much, and it is always in use."""
    assert gain_from_twice_the_memory("scenario-m", arm) > 1.4
    metrics, summary = run("scenario-m", arm)
    assert metrics.record.peak_referenced_blocks > 0.99 * kv_blocks("scenario-m")
    assert summary["preemptions"] > 0


def test_decode_steps_are_well_under_the_target_in_m() -> None:
    """Of a memory full of batch requests in the middle of their answers; chat wants 100 ms."""
    cost, tokens = cost_model("scenario-m"), 16 * kv_blocks("scenario-m")
    sequences = tokens // 3250
    assert cost.host_s(sequences) + cost.step_s([], sequences, tokens) < 0.05


@pytest.mark.parametrize("arm", EACH)
def test_prefill_is_short_in_c(arm: str) -> None:
    """Twice the memory is worth next to nothing, nobody is preempted for want of it, and prompts
    come at more than half the rate at which the GPUs prefill when they do nothing else.
    """
    assert gain_from_twice_the_memory("scenario-c", arm) < 1.05
    summary = run("scenario-c", arm)[1]
    assert summary["preemptions"] == 0
    prompts_per_s = summary["total_token_throughput"] - summary["output_throughput"]
    assert prompts_per_s > 0.5 * prefill_tokens_per_s()


def prefill_tokens_per_s() -> float:
    """Of prompts like those of the backlog, one after the other, and no answer."""
    cost = cost_model("scenario-c")
    return 3000 / (cost.host_s(1) + cost.step_s([Chunk(3000, 0)], 0, 0))


@pytest.mark.parametrize("scenario", ["scenario-m", "scenario-c"])
@pytest.mark.parametrize("arm", ["priority", "vllm"])
def test_64_batch_requests_always_wait(scenario: str, arm: str) -> None:
    metrics, summary = run(scenario, arm)
    table = metrics.record.table
    batch = np.array([each.slo_class.name == "batch" for each in table.requests])
    came_s = np.array([each.arrival_s for each in table.requests])[batch]
    taken_s = np.nan_to_num(table.first_scheduled_s[batch], nan=np.inf)
    times_s = np.linspace(0.001, 899.0, 5_000)
    waiting = np.searchsorted(np.sort(came_s), times_s, "right")
    waiting -= np.searchsorted(np.sort(taken_s), times_s, "right")
    assert np.median(waiting) == 64
    assert set(waiting[1:].tolist()) <= {64}
    assert summary["load"]["backlog_left"]["batch"] > 0


def test_only_arrivals_in_the_window_count() -> None:
    metrics, summary = run("scenario-m", "priority")
    came_s = [each.arrival_s for each in metrics.record.table.requests]
    inside = [time_s for time_s in came_s if WINDOW_S[0] <= time_s < WINDOW_S[1]]
    assert summary["submitted"] == len(inside) < len(came_s)
    assert summary["load"]["window_s"] == list(WINDOW_S)
    assert max(came_s) < 900


def test_the_link_can_be_another_one() -> None:
    """PCIe gen4 gives 25 GB/s each way; 350 GB/s can be had by a setting."""
    plain = cost_model("scenario-m")
    fast = cost_model("scenario-m", "run.host_link_gb_per_s=350")
    for direction in ("h2d", "d2h"):
        setup_s = plain.transfer_s(1, 1, direction)
        assert plain.transfer_s(10**9, 1, direction) - setup_s == pytest.approx(1 / 25)
        assert fast.transfer_s(10**9, 1, direction) - setup_s == pytest.approx(1 / 350)


def test_the_workload_without_its_configuration_says_so() -> None:
    assert "--config scenario-m" in load_workload(load_config(trace="scenario-m")).warnings[0]
    assert load_workload(config("scenario-m", "fcfs")).warnings == []
