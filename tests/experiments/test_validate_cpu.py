"""The validation on a CPU: what a recording holds, and what is refused before anything runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from executor.validation import validate as validation
from executor.validation.validate import Outcome, Verdict
from experiments import validate_cpu
from superinfer.costs import list_profiles
from superinfer.errors import ConfigError
from superinfer.lab.config import load_config


def outcome(folder: Path, name: str, simulated_ms: float) -> Outcome:
    """One policy, 100 ms on the device."""
    paths = []
    for side, value in (("device", 100.0), ("simulated", simulated_ms)):
        path = folder / f"{side}-{name}"
        path.mkdir(parents=True)
        text = json.dumps({"mean_ttft_ms": value, "classes": {"chat": {"mean_ttft_ms": value}}})
        (path / "summary.json").write_text(text, encoding="utf-8")
        paths.append(path)
    return Outcome.of(name, [paths[0]], paths[1])


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """No calibration and no runs; simulated times by policy, to be changed."""
    times = {"vllm": 104.0, "rotating": 95.0}
    profile = list_profiles()[0].path
    monkeypatch.setattr(validate_cpu, "calibrated", lambda work, sizes: profile)
    monkeypatch.setattr(validate_cpu, "code_hash", lambda roots: "0123456789abcdef")
    monkeypatch.setattr(validate_cpu, "busy_seconds", lambda trace, profile, work: 10.0)
    monkeypatch.setattr(validate_cpu, "report", lambda *given: iter(["a line"]))

    def all_of(wish: Any, say: Any) -> list[Outcome]:
        return [outcome(wish.out, name, times[name]) for name in wish.schedulers]

    def plot(self: Outcome, out: Path) -> Path:
        path = out / f"{self.scheduler}.png"
        path.write_bytes(b"picture")
        return path

    monkeypatch.setattr(validate_cpu, "validate_all", all_of)
    monkeypatch.setattr(Outcome, "plot", plot)
    original = validate_cpu.load_profile

    def with_fit(path: Path) -> Any:
        found = original(path)
        found.fit["step"] = {"heldout_mape": 0.05}
        return found

    monkeypatch.setattr(validate_cpu, "load_profile", with_fit)
    return times


def test_a_recording_says_what_it_rests_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: dict[str, float]
) -> None:
    """Machine, versions, command, date; figures of each policy, of all and by class; pictures."""
    monkeypatch.delenv(validate_cpu.THREADS, raising=False)
    folder, work = tmp_path / "results", tmp_path / "work"
    arguments = ["--requests", "5", "--record", str(folder), "--work", str(work)]
    assert validate_cpu.main(arguments) == 0
    names = {path.name for path in folder.iterdir()}
    pictures = {"validate-vllm.png", "validate-rotating.png"}
    assert names == {"validate.json", "validate.txt", "validate-profile.json"} | pictures
    found = json.loads((folder / "validate.json").read_text(encoding="utf-8"))
    assert found["command"].startswith("python -m experiments.validate_cpu --requests 5 --record")
    assert found["date"].endswith("+00:00") and found["seconds"] >= 0
    assert found["threads"] == "1"
    assert found["machine"]["name"] and found["machine"]["processors"] >= 1
    assert {"python", "torch", "numpy"} <= set(found["versions"])
    assert found["machine"]["threads"] == 1 and "tiny" in found["run"]
    assert found["seed"] == 0 and "--set=run.kv_blocks=120" in found["run"]
    assert found["bursts"]["count"] == 6 and "yardstick" in found
    assert found["sizes"]["requests"] == 5 and found["source"] and found["max_error"] == 0.1
    assert [one["scheduler"] for one in found["outcomes"]] == ["vllm", "rotating"]
    kinds = {metric["service_class"] for metric in found["outcomes"][0]["metrics"]}
    assert kinds == {"", "chat"} and not found["outcomes"][0]["failed"]
    assert (folder / "validate.txt").read_text(encoding="utf-8").splitlines()[1] == "a line"


def test_an_error_above_the_limit_is_an_exit_code(tmp_path: Path, quick: dict[str, float]) -> None:
    quick["vllm"] = 120.0
    assert validate_cpu.main(["--work", str(tmp_path / "work")]) == 3


def test_another_winner_is_an_exit_code(tmp_path: Path, quick: dict[str, float]) -> None:
    """On the device both are equal, so either may win; here neither error is large."""
    quick |= {"vllm": 99.0, "rotating": 101.0}
    assert validate_cpu.main(["--work", str(tmp_path / "work")]) == 0
    verdict = Verdict("mean_ttft_ms", ("vllm",), ("rotating",))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(validation, "winners", lambda outcomes: [verdict])
        assert validate_cpu.main(["--work", str(tmp_path / "work2")]) == 3


@pytest.mark.parametrize("option", ["--record", "--work"])
def test_a_folder_that_cannot_be_made_is_known_at_once(
    tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str], quick: dict[str, float]
) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    arguments = {"--work": str(tmp_path / "work"), option: str(file / "below")}
    assert validate_cpu.main([part for pair in arguments.items() for part in pair]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and "cannot be a folder" in said and "\n" not in said


def test_requests_come_in_bursts(tmp_path: Path) -> None:
    """Each in a part of the time that serving it takes, the next one when it should be over."""
    path = validate_cpu.write_trace(tmp_path / "trace.jsonl", 60, 12.0)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    times_s = [row["timestamp"] / 1000 for row in rows]
    assert times_s == sorted(times_s) and len(times_s) == 60
    burst_s = 12.0 / validate_cpu.BURSTS
    for burst in range(validate_cpu.BURSTS):
        begin_s = burst * validate_cpu.PAUSE_SHARE * burst_s
        end_s = begin_s + validate_cpu.ARRIVAL_SHARE * burst_s
        assert sum(begin_s <= time_s <= end_s for time_s in times_s) == 10
    longest = max(row["input_length"] + row["output_length"] for row in rows)
    assert longest < validate_cpu.LONGEST


@pytest.mark.parametrize("given", [None, "2"])
def test_commands_have_one_thread(monkeypatch: pytest.MonkeyPatch, given: str | None) -> None:
    """Which the steady clock counts; what was set comes back."""
    monkeypatch.delenv(validate_cpu.THREADS, raising=False)
    if given:
        monkeypatch.setenv(validate_cpu.THREADS, given)
    with validate_cpu.threads():
        assert os.environ[validate_cpu.THREADS] == "1"
    assert os.environ.get(validate_cpu.THREADS) == given


def test_being_interrupted_is_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    quick: dict[str, float],
) -> None:
    def stopped(work: Path, sizes: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(validate_cpu, "calibrated", stopped)
    assert validate_cpu.main(["--work", str(tmp_path / "work")]) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_a_mistake_of_a_command_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="executor calibrate: "):
        validate_cpu._call("executor", ["calibrate", "--minutes", "0.01"])


def test_both_sides_are_given_the_same() -> None:
    """The simulator's run at once takes the options of the device's."""
    config = load_config(None, [o.removeprefix("--set=") for o in validate_cpu.run_options()[4:]])
    assert config.run.kv_blocks == validate_cpu.KV_BLOCKS
    assert config.scheduler["max_num_seqs"] == validate_cpu.SEQUENCES


@pytest.mark.parametrize(
    "option", ["--requests=0", "--minutes=nan", "--minutes=0.05", "--repeats=two"]
)
def test_odd_numbers_are_usage_errors(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        validate_cpu.main([option])
    assert stopped.value.code == 2
    assert option.split("=", maxsplit=1)[0] in capsys.readouterr().err


@pytest.mark.slow
def test_all_of_it_in_small(tmp_path: Path) -> None:
    """A few requests: calibration, both policies on both sides, and the recording."""
    folder = tmp_path / "results"
    arguments = ["--requests", "6", "--repeats", "1", "--minutes", "0.2"]
    arguments += ["--work", str(tmp_path / "work"), "--record", str(folder)]
    assert validate_cpu.main(arguments) in {0, 3}
    found = json.loads((folder / "validate.json").read_text(encoding="utf-8"))
    for one in found["outcomes"]:
        metrics = {m["name"]: m for m in one["metrics"] if not m["service_class"]}
        assert metrics["completed"]["device"] == metrics["completed"]["simulated"] == 6
        assert [stick["yardstick_s"] for stick in one["yardsticks"]] == [
            found["yardstick"]["yardstick_s"]
        ]
    assert (folder / "validate-vllm.png").stat().st_size > 1000
