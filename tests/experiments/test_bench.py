"""The cases of the benchmark: that they are there, and that they do what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import bench
from sim.summaries import simulated
from sim.workload import load_workload
from superinfer.lab.config import load_config


def test_slo_aware_is_measured_with_content(tmp_path: Path) -> None:
    found = {name: options for name, _, _, options in bench.cases(1000, tmp_path)}
    for scheduler in ("vllm", "rotating"):
        options = found[f"shared halves, slo_aware, {scheduler}"]
        assert options == ["--scheduler", scheduler, "--memory", "slo_aware", "--prefix-caching"]


@pytest.mark.parametrize("scheduler", bench.WITH_CONTENT)
def test_half_of_each_prompt_is_shared(tmp_path: Path, scheduler: str) -> None:
    path = tmp_path / "shared.jsonl"
    bench.write_standard_workload(path, 50, content=True)
    chosen = load_config(
        None, (), trace=str(path), scheduler=scheduler, memory="slo_aware", prefix_caching=True
    )
    workload = load_workload(chosen)
    first, second = (request.hash_ids for request in workload.requests[:2])
    assert len(first) == 32 and first[:16] == second[:16] and not {*first[16:]} & {*second[16:]}
    summary = simulated(chosen, workload)[1]
    assert summary["completed"] == 50
    assert 0.4 < summary["prefix_hit_rate"] <= 0.5
