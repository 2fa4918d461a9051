"""`superinfer-sim compare` as a study: seeds, intervals, going on after a stop."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import killed_runs
import pytest
from specs import document, write_spec

from sim.commands import RunOptions
from sim.studies.arms import load_arms, plain_name
from sim.studies.compare import COMPARISON, compare_command, simulate_into
from superinfer.costs import CalibratedCost, build_cost, write_profile
from superinfer.errors import ConfigError
from superinfer.lab.config import Config, load_config
from superinfer.lab.report.values import number
from superinfer.lab.results import load_run
from superinfer.schedulers import SCHEDULERS

REPOSITORY = Path(__file__).resolve().parents[3]
RECORD = '{{"timestamp":{at},"input_length":{prompt},"output_length":{answer},"class":"chat"}}\n'
TRACE = "".join(RECORD.format(at=40 * i, prompt=200 + 7 * i, answer=5 + i % 9) for i in range(60))

PLUGIN = """
import time
from dataclasses import dataclass
from superinfer.schedulers.fcfs import FcfsScheduler

@dataclass
class Slow(FcfsScheduler):
    pause_s: float = 0.0
    def submit(self, seq, now):
        print("a line from a policy\\n", end="")  # in one piece, whenever it is stopped
        time.sleep(self.pause_s)
        FcfsScheduler.submit(self, seq, now)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a trace, a specification, and a scheduler that can be slow."""
    (tmp_path / "t.jsonl").write_text(TRACE)
    chat = {
        "class": "chat",
        "rate_per_s": 8.0,
        "prompt": {"family": "fixed", "value": 900},
        "answer": {"family": "uniform", "min": 10, "max": 60},
    }
    write_spec(tmp_path, document(6, chat=chat))
    (tmp_path / "slow_plugin.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "slow_plugin", raising=False)
    return tmp_path


def arms(*names: str, trace: str = "t.jsonl", settings: tuple[str, ...] = (), **run: Any) -> Any:
    def load(file: Path | None, scheduler: str | None) -> Config:
        return load_config(file, settings, trace=trace, scheduler=scheduler, **run)

    return load_arms([n for n in names if ".toml" not in n], arm_files(names), load, "compare")


def arm_files(names: tuple[str, ...]) -> list[Path]:
    return [Path(name) for name in names if name.endswith(".toml")]


def compared(out: str, *names: str, seeds: int = 1, **run: Any) -> int:
    options = RunOptions(Path(out), (), as_json=True, plots=False)
    return compare_command(arms(*names, **run), options, seeds, workers=1)


def process(*arguments: str) -> subprocess.Popen[str]:
    return killed_runs.process("compare", *arguments)


def stored(root: Path) -> list[Path]:
    return sorted(root.glob(".study/*/summary.json"))


def test_all_stands_for_every_scheduler(folder: Path) -> None:
    assert list(arms("all")) == list(SCHEDULERS)
    assert list(arms("rotating", "all"))[:2] == ["rotating", next(iter(SCHEDULERS))]
    assert len(arms("rotating", "all")) == len(SCHEDULERS)


# -- seeds ----------------------------------------------------------------------------------------


def test_a_specification_is_compared_over_seeds(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compared("c", "vllm", "fcfs", trace="spec.toml", seeds=3, seed=5) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == json.loads((folder / "c" / COMPARISON).read_text())
    for name, runs in answer["arms"].items():
        assert [run["seed"] for run in runs] == [5, 6, 7]
        assert [run["folder"] for run in runs] == [f"{name}/seed-{seed}" for seed in (5, 6, 7)]
        totals = {run["summary"]["total_output_tokens"] for run in runs}
        assert len(totals) == 3, "each seed draws other requests"
        for run in runs:
            assert "wall_s" not in run["summary"]
            stored_run = load_run(folder / "c" / run["folder"])
            assert stored_run.config["run"]["seed"] == run["seed"]
            assert len(stored_run.requests) == run["summary"]["submitted"]
    found = {each["metric"]: each for each in answer["differences"]}
    assert {each["arm"] for each in answer["differences"]} == {"fcfs"}
    latency = found["median_ttft_ms"]
    assert (latency["interval"]["method"], latency["interval"]["size"]) == ("paired t", 3)
    assert latency["difference"] == pytest.approx(sum(latency["by_seed"]) / 3)
    assert not (folder / "c" / ".study").exists()


def test_arms_meet_the_same_requests(folder: Path) -> None:
    assert compared("c", "vllm", "fcfs", trace="spec.toml", seeds=2) == 0
    for seed in (0, 1):
        one, other = (load_run(folder / "c" / arm / f"seed-{seed}") for arm in ("vllm", "fcfs"))
        for column in ("arrival_s", "input_tokens", "output_tokens"):
            assert one.requests[column].tolist() == other.requests[column].tolist()


def test_a_trace_is_the_same_for_every_seed(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        compared("c", "vllm", "fcfs", seeds=5)
    assert str(caught.value).startswith(
        "--seeds 5: t.jsonl is the same for every seed: expected a specification as trace"
    )
    assert (caught.value.exit_code, (folder / "c").exists()) == (2, False)


def test_seeds_end_somewhere(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"--seeds 2: expected seeds up to 2\*\*63 - 1, got 92"):
        compared("c", "vllm", "fcfs", seeds=2, seed=2**63 - 1)
    with pytest.raises(ConfigError, match="--seeds 100000000: expected at most 10,000"):
        compared("c", "vllm", "fcfs", trace="spec.toml", seeds=10**8)
    assert not (folder / "c").exists()


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("[run]\nseed = 3\n", "arm x: run.seed: expected 0 as in vllm, got 3"),
        ("[workload]\nrate_scale = 2\n", "arm x: workload: expected the same as in vllm"),
    ],
)
def test_arms_of_a_specification_share_its_draws(folder: Path, file: str, words: str) -> None:
    (folder / "x.toml").write_text(file)
    with pytest.raises(ConfigError, match=words):
        arms("vllm", "x.toml", trace="spec.toml")


def test_a_seed_changes_nothing_in_a_trace(folder: Path) -> None:
    (folder / "x.toml").write_text("[run]\nseed = 3\n")
    assert set(arms("vllm", "x.toml")) == {"vllm", "x"}


def test_names_that_would_share_a_folder(folder: Path) -> None:
    (folder / "slow_plugin.Slow.toml").write_text("")
    with pytest.raises(ConfigError, match="expected different names"):
        arms("slow_plugin:Slow", "slow_plugin.Slow.toml")


def test_a_folder_is_called_as_its_arm_where_it_can_be() -> None:
    names = {"vllm": "vllm", "my.module:Mine": "my.module.Mine", "a/b": "a-b", "..x": "x"}
    assert {name: plain_name(name) for name in names} == names
    assert plain_name("...") == "arm"


def test_results_are_copied_where_there_are_no_links(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on some network drives: a copy that was begun with links is begun again."""

    def no_link(source: str, target: str, **_: object) -> None:
        if source.endswith("summary.json"):
            raise OSError(errno.EPERM, "no links here")
        shutil.copy2(source, target)

    monkeypatch.setattr(os, "link", no_link)
    assert compared("c", "vllm", "fcfs") == 0
    for arm in ("vllm", "fcfs"):
        assert len(load_run(folder / "c" / arm).requests) == 60
    assert {path.name for path in (folder / "c").iterdir()} == {"vllm", "fcfs", COMPARISON}


def test_a_run_says_where_it_is(folder: Path) -> None:
    (config, _) = arms("vllm", "fcfs").values()
    assert [simulate_into(config, Path("r")) for _ in range(2)] == [Path("r"), Path("r-2")]


# -- what is shown --------------------------------------------------------------------------------


def test_the_table_says_what_its_ranges_are(folder: Path) -> None:
    out, err = process("t.jsonl", "--no-plots", "--out", "c").communicate()
    text = " ".join(out.split())
    assert "Second range: 95% interval from blocks of successive requests of this one trace" in text
    assert "it says nothing about other arrivals" in text
    lines = err.splitlines()
    assert lines[0].startswith("0 of 4 runs done")
    arms = ("vllm", "fcfs", "priority", "rotating")
    assert lines[-4:] == [f"results in c/{name}" for name in arms]


def test_few_seeds_are_said_to_be_few(capsys: pytest.CaptureFixture[str]) -> None:
    options = RunOptions(Path("c"), plots=False)
    two = arms("vllm", "fcfs", trace="spec.toml", settings=("workload.duration_s=4",))
    assert compare_command(two, options, seeds=2, workers=1) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Second range: 95% interval, paired over 2 seeds (paired t; few seeds)." in text


def test_a_comparison_of_seeds_says_which_of_them_left_what_was_measured(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And its report has the means of the seeds also where the table has no room for a metric."""
    cost = build_cost("llama-3.1-8b", "a100-80g", 1, "calibrated")
    assert isinstance(cost, CalibratedCost)
    narrow = {"attention_prefill": {"chunk_tokens": [1, 8]}}
    write_profile(replace(cost.profile, range=narrow), Path("p.json"))
    settings = ("workload.duration_s=4", "run.costs=p.json")
    two = arms("vllm", "fcfs", trace="spec.toml", settings=settings)
    assert compare_command(two, RunOptions(Path("c")), seeds=2, workers=1) == 0
    shares = {
        f"arm {name}, seed {seed}": load_run(folder / "c" / name / f"seed-{seed}").summary["trust"]
        for name in two
        for seed in (0, 1)
    }
    lines = [line for line in capsys.readouterr().err.splitlines() if "is extrapolated" in line]
    for line, name in zip(lines, two, strict=True):
        ours = [each for each in shares if each.startswith(f"arm {name},")]
        worst = max(ours, key=lambda each: shares[each]["extrapolated_share"])
        assert line.startswith(f"warning: {worst}: ")
    medians = [load_run(folder / "c/fcfs" / f"seed-{n}").summary["median_e2el_ms"] for n in (0, 1)]
    assert f">{number(sum(medians) / 2)}<" in (folder / "c/report.html").read_text()


def test_what_a_policy_prints_is_not_the_answer(folder: Path) -> None:
    (folder / "x.toml").write_text('[run]\nscheduler = "slow_plugin:Slow"\n')
    out, err = process(
        *("t.jsonl", "--schedulers", "fcfs", "--arm", "x.toml", "--no-plots", "--json"),
        *("--out", "c"),
    ).communicate()
    assert list(json.loads(out)["arms"]) == ["fcfs", "x"]
    assert err.count("a line from a policy") == 60


def test_equal_policies_do_not_differ(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "x.toml").write_text('[run]\nscheduler = "slow_plugin:Slow"\n')
    assert compared("c", "fcfs", "x.toml") == 0
    found = json.loads(capsys.readouterr().out)["differences"]
    assert all(each["difference"] in (0, None) for each in found)
    intervals = [each["interval"] for each in found if each["interval"] is not None]
    assert intervals and all(interval["contains_zero"] for interval in intervals)


def test_a_trace_from_standard_input_reaches_every_arm(folder: Path) -> None:
    command = [sys.executable, "-m", "sim", "compare", "-", "--no-plots", "--json"]
    done = subprocess.run(
        [*command, "--schedulers", "vllm,fcfs"],
        env=killed_runs.environment(),
        input=TRACE.encode(),
        capture_output=True,
        check=True,
    )
    runs = [run for each in json.loads(done.stdout)["arms"].values() for run in each]
    assert [run["summary"]["completed"] for run in runs] == [60, 60]
    assert {run["summary"]["run"]["run"]["trace"] for run in runs} == {"-"}
    (root,) = (folder / "runs").iterdir()
    assert root.name.startswith("stdin-compare-")


# -- going on -------------------------------------------------------------------------------------

SLOW = ("--schedulers", "fcfs", "--arm", "slow.toml", "--no-plots", "--json", "--workers", "1")


def slow_arm(folder: Path, pause_s: float) -> None:
    (folder / "slow.toml").write_text(
        f'[run]\nscheduler = "slow_plugin:Slow"\n[scheduler]\npause_s = {pause_s}\n'
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_comparison_goes_on_in_its_folder(folder: Path, how: signal.Signals) -> None:
    slow_arm(folder, 0.05)
    running = process("t.jsonl", *SLOW, "--out", "c")
    killed_runs.until(lambda: stored(folder / "c"))
    os.killpg(running.pid, how)
    _, err = running.communicate()
    if how == signal.SIGINT:
        kept = "1 run is kept: the same command with --out c goes on from there"
        assert (running.returncode, err.splitlines()[-2:]) == (130, [kept, "interrupted"])
    (before,) = [path.read_bytes() for path in stored(folder / "c")]
    again, whole = process("t.jsonl", *SLOW, "--out", "c"), process("t.jsonl", *SLOW, "--out", "d")
    answers = [each.communicate()[0] for each in (again, whole)]
    assert [again.returncode, whole.returncode] == [0, 0]
    assert answers[0] == answers[1], "not a byte tells that it was stopped"
    assert (folder / "c/fcfs/summary.json").read_bytes() == before, "it was not run again"
    assert (folder / "c" / COMPARISON).read_bytes() == (folder / "d" / COMPARISON).read_bytes()
    assert {path.name for path in (folder / "c").iterdir()} == {"fcfs", "slow", COMPARISON}


def test_an_arm_that_failed_is_mended(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "x.toml").write_text('[run]\nscheduler = "harness:IdleScheduler"\n')
    (folder / "y.toml").write_text("[run]\nlag = 1\n")
    assert compared("c", "vllm", "x.toml", "y.toml") == 1
    shown = capsys.readouterr()
    assert list(json.loads(shown.out)["arms"]) == ["vllm", "y"]
    stuck = (
        "60 requests can never run (first: 1): the scheduler plans nothing, and nothing is to come"
    )
    (failed,) = json.loads(shown.out)["failed"]
    assert (failed["arm"], failed["seed"]) == ("x", 0)
    assert failed["reason"].startswith("scheduler 'harness:IdleScheduler' (")
    assert failed["reason"].endswith(f"harness.py): {stuck}")
    assert shown.err.endswith(f"error: arm x: {failed['reason']}\n")
    before = (folder / "c/vllm/summary.json").read_bytes()
    (folder / "x.toml").write_text('[run]\nscheduler = "fcfs"\n')
    (folder / "y.toml").write_text("[run]\nlag = 0\n")
    (folder / "c/vllm/notes.txt").write_text("mine")
    for stored_run in stored(folder / "c"):  # as if the copies of them had been stopped
        (folder / "c/.study" / f".{stored_run.parent.name}.copy").mkdir()
    assert compared("c", "vllm", "x.toml", "y.toml") == 0
    assert (folder / "c/vllm/notes.txt").exists(), "what was whole is left alone"
    assert list(json.loads(capsys.readouterr().out)["arms"]) == ["vllm", "x", "y"]
    assert (folder / "c/vllm/summary.json").read_bytes() == before
    assert load_run(folder / "c" / "y").config["run"]["lag"] == 0, "what it was before is gone"


def test_a_reference_that_fails_leaves_nothing_to_compare(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compared("c", "harness:IdleScheduler", "vllm", "fcfs") == 1
    assert capsys.readouterr().out == ""
    assert {path.name for path in (folder / "c").iterdir()} == {"vllm", "fcfs", ".study"}


def test_nothing_is_left_of_a_comparison_that_gave_nothing(folder: Path) -> None:
    (folder / "x.toml").write_text('[run]\nscheduler = "harness:IdleScheduler"\nlag = 1\n')
    before = {path.name for path in folder.iterdir()}
    assert compared("new/c", "harness:IdleScheduler", "x.toml") == 1
    assert {path.name for path in folder.iterdir()} == before


def test_two_comparisons_at_once_take_different_folders(folder: Path) -> None:
    slow_arm(folder, 0.01)
    running = [process("t.jsonl", *SLOW, "--out", "c") for _ in range(2)]
    answers = [each.communicate()[0] for each in running]
    assert [each.returncode for each in running] == [0, 0]
    assert answers[0] == answers[1]
    for name in ("c", "c-2"):
        found = {path.name for path in (folder / name).iterdir()}
        assert found == {"fcfs", "slow", COMPARISON}
