"""Comparing a device's run with a simulated one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from executor.validation.compare import Metric, compare, lines, middle, spread
from executor.validation.validate import Outcome, winners


def test_errors_are_of_the_simulator() -> None:
    """As a share of what the device took; no error beside a zero."""
    assert Metric("mean_ttft_ms", "", 100.0, 112.0).error == pytest.approx(0.12)
    assert Metric("preemptions", "", 0.0, 3.0).error is None


def test_means_and_p99_of_all_requests_are_judged() -> None:
    """P99 may be off twice as much; classes, medians and counts are only shown."""
    assert Metric("mean_ttft_ms", "", 100.0, 112.0).fails(0.1)
    assert not Metric("mean_ttft_ms", "", 100.0, 109.0).fails(0.1)
    assert not Metric("p99_ttft_ms", "", 100.0, 119.0).fails(0.1)
    assert Metric("p99_ttft_ms", "", 100.0, 79.0).fails(0.1)
    assert not Metric("median_ttft_ms", "", 100.0, 300.0).fails(0.1)
    assert not Metric("mean_ttft_ms", "chat", 100.0, 300.0).fails(0.1)
    assert not Metric("rotations", "", 1.0, 3.0).fails(0.1)


def test_classes_that_both_have_are_compared() -> None:
    """With the metrics that both have."""
    device = {"mean_ttft_ms": 2.0, "classes": {"chat": {"mean_ttft_ms": 1.0}, "code": {}}}
    simulated = {"mean_ttft_ms": 3.0, "classes": {"chat": {"mean_ttft_ms": 1.5, "p99_ttft_ms": 9}}}
    found = compare(device, simulated)
    assert [(m.name, m.service_class, m.error) for m in found] == [
        ("mean_ttft_ms", "", 0.5),
        ("mean_ttft_ms", "chat", 0.5),
    ]
    assert sum(line.endswith("!") for line in lines(found, 0.1)) == 1


def test_medians_of_repeats() -> None:
    """Number by number, in tables too; what is no number is the first run's."""
    runs = [{"a": n, "classes": {"x": {"b": 10 * n}}, "name": str(n)} for n in (3, 1, 2)]
    assert middle(runs) == {"a": 2, "classes": {"x": {"b": 20}}, "name": "3"}
    assert spread(runs, "a") == pytest.approx(1.0)


def outcome(name: str, folder: Path, device_ms: float, simulated_ms: float) -> Outcome:
    """Of two result folders with one metric."""
    paths = []
    for side, value in (("device", device_ms), ("simulated", simulated_ms)):
        path = folder / f"{side}-{name}"
        path.mkdir()
        text = json.dumps({"mean_ttft_ms": value, "mean_e2el_ms": value, "slo_attainment": 1})
        (path / "summary.json").write_text(text, encoding="utf-8")
        paths.append(path)
    return Outcome.of(name, [paths[0]], paths[1])


def test_who_wins_on_both_sides(tmp_path: Path) -> None:
    """The policy with the smaller mean, by the device and by the simulator."""
    outcomes = [outcome("vllm", tmp_path, 20.0, 10.0), outcome("rotating", tmp_path, 10.0, 12.0)]
    said = list(winners(outcomes))
    assert said[0].startswith(
        "best by mean_ttft_ms: rotating on the device, vllm simulated (differ)"
    )
    assert outcomes[0].fails(0.1) and outcomes[0].row(0.1)["failed"]
    assert not list(winners(outcomes[:1]))


def execute(command: list[str]) -> subprocess.CompletedProcess[str]:
    """`superinfer-exec`, in a process of its own."""
    program = [sys.executable, "-m", "executor", *command]
    return subprocess.run(program, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_device_and_simulator_on_one_trace(tmp_path: Path) -> None:
    """The commands themselves, on the shipped model and a profile of this machine."""
    trace = tmp_path / "trace.jsonl"
    rows = [
        {"timestamp": 200 * i, "input_length": 20 + i, "output_length": 8, "class": "chat"}
        for i in range(8)
    ]
    trace.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    profile, out = tmp_path / "cpu.json", tmp_path / "out"
    common = ["--model", "tiny", "--device", "cpu"]
    sizes = "--max-model-len 256 --kv-blocks 64 --block-tokens 32"
    calibrate = ["calibrate", *common, "--minutes", "0.2", "--max-model-len", "256"]
    validate = ["validate", str(trace), *common, "--profile", str(profile), "--out", str(out)]
    commands = [*calibrate, "-o", str(profile)], [*validate, "--run", sizes, "--json"]
    for command in commands:
        done = execute(command)
        assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    metrics = {m["name"]: m for m in found["metrics"] if not m["service_class"]}
    assert metrics["completed"]["device"] == metrics["completed"]["simulated"] == 8
    assert metrics["mean_tpot_ms"]["device"] > 0 and metrics["mean_tpot_ms"]["simulated"] > 0
    assert (out / "vllm.png").stat().st_size > 1000
    assert execute([*commands[1], "--max-error", "0"]).returncode == 3
