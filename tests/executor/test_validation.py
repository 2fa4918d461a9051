"""Comparing a device's run with a simulated one."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from executor_runs import call

from executor.validation import runs
from executor.validation import validate as validation
from executor.validation.compare import Metric, compare, extent, lines, middle
from executor.validation.validate import Outcome, gate, winners
from superinfer.costs import list_profiles, load_profile, write_profile
from superinfer.lab.pictures import side_by_side
from superinfer.lab.pictures.side_by_side import COLUMNS


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


def test_a_class_that_is_the_whole_run_has_no_rows_of_its_own() -> None:
    metrics = [
        Metric("mean_ttft_ms", "", 100.0, 110.0),
        Metric("p99_ttft_ms", "", 200.0, 210.0),
        Metric("mean_ttft_ms", "chat", 100.0, 110.0),
        Metric("p99_ttft_ms", "chat", 200.0, 205.0),
    ]
    assert [line.split()[:2] for line in lines(metrics, None)][1:] == [
        ["mean_ttft_ms", "100"],
        ["p99_ttft_ms", "200"],
        ["chat", "p99_ttft_ms"],
    ]


def test_medians_of_repeats() -> None:
    """Number by number, in tables too; what is no number is the first run's."""
    runs = [{"a": n, "classes": {"x": {"b": 10 * n}}, "name": str(n)} for n in (3, 1, 2)]
    assert middle(runs) == {"a": 2, "classes": {"x": {"b": 20}}, "name": "3"}
    assert extent(runs, "a") == (1.0, 3.0)


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


@pytest.mark.parametrize(
    ("vllm_ms", "rotating_ms", "best"),
    [
        ((100.0, 100.0), (103.0, 103.0), ("vllm",)),  # single runs: any difference counts
        ((99.0, 104.0), (103.0, 105.0), ("vllm", "rotating")),
        ((99.0, 103.0), (103.0, 104.0), ("vllm", "rotating")),
        ((90.0, 102.0), (103.0, 104.0), ("vllm",)),  # apart, though one has wide repeats
    ],
)
def test_nobody_wins_whose_repeats_overlap(
    tmp_path: Path,
    vllm_ms: tuple[float, float],
    rotating_ms: tuple[float, float],
    best: tuple[str, ...],
) -> None:
    """Then either may win in simulation."""
    vllm = outcome("vllm", tmp_path, 100.0, 100.0)
    rotating = outcome("rotating", tmp_path, 103.0, 98.0)
    assert rotating.extents["mean_ttft_ms"] == (103.0, 103.0)
    vllm.extents["mean_ttft_ms"], rotating.extents["mean_ttft_ms"] = vllm_ms, rotating_ms
    said = winners([vllm, rotating])[0]
    assert (said.device, said.simulated) == (best, ("rotating",))
    assert said.agrees == ("rotating" in best)


@pytest.mark.parametrize("steady", [False, True])
def test_a_run_goes_by_the_clock_of_its_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steady: bool
) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(runs, "_run", lambda command, out: given.append(command))
    profile = load_profile(list_profiles()[0].path)
    if steady:
        profile = replace(profile, yardstick={"yardstick_s": 0.004})
    write_profile(profile, tmp_path / "profile.json")
    runs.run_device("trace.jsonl", [], tmp_path / "profile.json", tmp_path / "out")
    assert ("--clock" in given[0]) == steady
    assert not steady or given[0][-2:] == ["--clock", "steady"]


def test_yardsticks_of_runs_are_told(tmp_path: Path) -> None:
    found = outcome("vllm", tmp_path, 10.0, 10.0)
    assert found.yardsticks == [] and "yardsticks" not in found.row(0.1)
    stick = {"yardstick_s": 0.006, "samples": 90, "median": 1.12, "p5": 0.9, "p95": 1.31}
    for folder in found.devices:
        data = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        text = json.dumps({**data, "run": {"yardstick": stick}})
        (folder / "summary.json").write_text(text, encoding="utf-8")
    found = Outcome.of("vllm", found.devices, found.simulated)
    assert found.row(0.1)["yardsticks"] == [stick]
    assert "took 1.12 times as long, 90% of its samples 0.90 to 1.31" in "\n".join(found.lines(0.1))


def test_a_simulation_beyond_the_profile_is_told(tmp_path: Path) -> None:
    found = outcome("vllm", tmp_path, 10.0, 10.0)
    assert "extrapolated" not in "\n".join(found.lines(0.1))
    left = {"what": "step tokens", "limit": 512, "largest": 1687, "share": 0.2}
    trust = {"profile": "cpu_tiny_tp1", "extrapolated_share": 0.2, "left_range": [left]}
    text = json.dumps({"mean_ttft_ms": 10.0, "trust": trust})
    (found.simulated / "summary.json").write_text(text, encoding="utf-8")
    found = Outcome.of("vllm", found.devices, found.simulated)
    assert found.row(0.1)["trust"] == trust
    assert "20 % of the step time is extrapolated from cpu_tiny_tp1" in "\n".join(found.lines(0.1))


def test_who_wins_on_both_sides(tmp_path: Path) -> None:
    """The policy with the smaller mean, by the device and by the simulator."""
    outcomes = [outcome("vllm", tmp_path, 20.0, 10.0), outcome("rotating", tmp_path, 10.0, 12.0)]
    said = winners(outcomes)
    assert said[0].line.startswith(
        "best by mean_ttft_ms: rotating on the device, vllm simulated (differ)"
    )
    assert outcomes[0].fails(0.1) and outcomes[0].row(0.1)["failed"]
    assert not said[0].agrees and said[2].agrees  # all attain the same
    assert not winners(outcomes[:1])


def test_another_winner_fails_the_gate(tmp_path: Path) -> None:
    """Though every error is small; and no tie in simulation where the device's runs are apart."""
    outcomes = [outcome("vllm", tmp_path, 10.0, 10.2), outcome("rotating", tmp_path, 10.1, 10.1)]
    assert not any(one.fails(0.05) for one in outcomes)
    assert not gate(outcomes, 0.05) and gate(outcomes[:1], 0.05)
    tied = outcome("fcfs", tmp_path, 10.0, 10.1)
    assert winners([outcomes[1], tied])[0].simulated == ("rotating", "fcfs")
    assert not gate([outcomes[1], tied], 0.05)
    assert gate([outcomes[1], outcome("edf", tmp_path, 10.1, 10.1)], 0.05)


def test_a_judged_metric_that_one_side_lacks_fails() -> None:
    """Absent, zero or not finite on one side; what both lack is not judged."""
    full = {"mean_ttft_ms": 2.0, "completed": 5}
    for broken in ({}, {"mean_ttft_ms": None}, {"mean_ttft_ms": 0.0}, {"mean_ttft_ms": math.nan}):
        for pair in ((full, {**broken, "completed": 5}), ({**broken, "completed": 5}, full)):
            failing = [metric for metric in compare(*pair) if metric.fails(10.0)]
            assert [metric.name for metric in failing] == ["mean_ttft_ms"]
            assert "!" in "".join(lines(failing, 10.0))
            assert "NaN" not in json.dumps(failing[0].row())
    both = {"mean_ttft_ms": 0.0, "completed": 5}
    assert not any(metric.fails(0.1) for metric in compare(both, both))
    assert [m.name for m in compare(full, {**full, "completed": 4}) if m.fails(9.0)] == [
        "completed"
    ]


def test_nothing_to_judge_fails() -> None:
    assert Outcome("vllm", [], Path()).fails(1.0)


def test_a_repeat_may_lack_a_metric() -> None:
    """Then there is no median of it, and the extent is that of the others."""
    runs = [{"a": 1.0}, {"a": None}, {}, {"a": 3.0}]
    assert middle(runs)["a"] is None
    assert extent(runs, "a") == (1.0, 3.0) and extent(runs, "b") is None


def test_a_picture_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are errors: no legend where nothing was drawn."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(side_by_side, "read_columns", lambda path: {key: [] for key in COLUMNS})
    drawn = side_by_side.write_plot(tmp_path, tmp_path, tmp_path / "picture.png", "nothing")
    assert drawn.stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["t.jsonl", "--scheduler", "vlm"], "did you mean 'vllm'"),
        (
            ["t.jsonl", "--scheduler", "vllm", "--scheduler", "vllm"],
            "--scheduler vllm: given twice",
        ),
        (["-"], "TRACE: expected a file"),
    ],
)
def test_bad_input_is_refused_before_a_run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.setattr(validation, "validate_all", lambda wish, say: 1 / 0)
    profile = list_profiles()[0].path
    places = ("--profile", profile, "--out", tmp_path / "out", "--device", "cpu")
    code, _, errors = call(monkeypatch, capsys, "validate", *arguments, *places)
    assert code == 2 and expected in errors and errors.count("\n") == 1


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
