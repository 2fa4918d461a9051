"""The cases of the benchmark: that they are there, and that they do what they say."""

from __future__ import annotations

import json
import sys
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


def test_many_tenants_of_all_classes_ask_in_turn(tmp_path: Path) -> None:
    path = tmp_path / "tenants.jsonl"
    bench.write_tenants_workload(path, 2000, 40.0)
    requests = load_workload(load_config(None, (), trace=str(path))).requests
    assert {request.slo_class.name for request in requests} == {*bench.CLASSES}
    assert len({request.tenant for request in requests}) > 1500
    assert 45 < requests[-1].arrival_s < 55
    prompts = [request.prompt_tokens for request in requests]
    assert (min(prompts), max(prompts)) == bench.PROMPTS_TOKENS


def test_only_some_cases_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def measured(case: str, trace: Path, requests: int, options: list[str]) -> bench.Measurement:
        asked.append(case)
        return bench.Measurement(case, requests, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)

    file = tmp_path / "found.json"
    command = ["bench", "--only", "many", "--requests", "100", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--json", str(file)])
    monkeypatch.setattr(bench, "measure", measured)
    monkeypatch.setattr(bench, "decision_times", lambda timeouts: pytest.fail("measured"))
    bench.main()
    found = json.loads(file.read_text())
    names = [case["case"] for case in found["cases"]]
    assert asked == [names[0], *names]  # the first also fills the cache
    assert {name.split(",")[0] for name in names} == {"many tenants", "many replicas"}
    assert (found["decisions"], len(names)) == ([], 4)
    assert len(capsys.readouterr().out.splitlines()) == 4
