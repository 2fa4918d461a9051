"""`superinfer-sim tune`: trials, the front, files that run again, and going on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from inline_engine import Inline
from killed_runs import COUNTING, none_works, process, stored, until

from superinfer.errors import SuperInferError
from superinfer.lab.studies.tuning import STARTUP, Task

pytest.importorskip("optuna")

Call = Callable[..., tuple[int, str, list[str]]]
SPACE = """
[scheduler]
max_num_seqs = { low = 8, high = 512, log = true }
preemption = ["recompute", "swap"]
"""
VLLM = ("t.jsonl", "--scheduler", "vllm", "--space", "space.toml")


@pytest.fixture(autouse=True)
def folder(work_folder: Path, chat_trace: Callable[[int], str]) -> Path:
    (work_folder / "t.jsonl").write_text(chat_trace(60))
    (work_folder / "space.toml").write_text(SPACE)
    return work_folder


@pytest.fixture
def call(command_lines: Call) -> Call:
    return partial(command_lines, "tune")


def told(call: Call, *arguments: str) -> dict[str, Any]:
    code, out, err = call(*arguments, "--json", "--no-plots")
    assert code == 0, err
    answer: dict[str, Any] = json.loads(out)
    return answer


# -- outcomes -------------------------------------------------------------------------------------


def test_a_tuning_and_its_front(call: Call, inline: Inline, folder: Path) -> None:
    code, out, err = call(*VLLM, "--trials", "6", "-o", "t")
    assert (code, err[-1]) == (0, "tuning in t")
    found = json.loads((folder / "t/tune.json").read_text())
    assert (found["version"], found["simulated"]) == (1, True)
    assert found["objectives"] == {
        "slo_attainment": "maximize",
        "output_throughput": "maximize",
        "p99_ttft_ms": "minimize",
    }
    assert [trial["number"] for trial in found["trials"]] == list(range(6))
    assert found["trials"][0]["values"] == found["as_it_is"]["values"]
    for trial in found["trials"]:
        assert 8 <= trial["params"]["scheduler.max_num_seqs"] <= 512
        assert trial["params"]["scheduler.preemption"] in ("recompute", "swap")
    rows = [line.split()[0] for line in out.splitlines() if "trial-" in line or "=" in line]
    assert rows == [str(number) for number in found["front"] if number]
    pictured = (folder / "t/pareto.png").read_bytes()
    assert pictured.startswith(b"\x89PNG")
    files = {path.name for path in (folder / "t/front").iterdir()}
    assert files == {f"trial-{number}.toml" for number in found["front"]}
    best = (folder / "t/best.toml").read_text()
    assert best == (folder / f"t/front/trial-{found['front'][0]}.toml").read_text()


def test_settings_tuned_by_nominal_step_times_are_told(call: Call, inline: Inline) -> None:
    err = call(*VLLM, "--device", "l40s", "--trials", "2", "-o", "t")[2]
    assert [line for line in err if "no profile" in line] == [
        "warning: as it is: no profile of llama-3.1-8b on l40s at tp 1: step times are nominal "
        "figures, and no real step is as fast"
    ]


def test_a_file_of_the_front_gives_what_it_says(
    call: Call, command_lines: Call, inline: Inline
) -> None:
    found = told(call, *VLLM, "--trials", "4", "-o", "t")
    number = found["front"][-1]
    arguments = ("--config", f"t/front/trial-{number}.toml", "--json", "--no-plots", "--out", "r")
    code, out, _ = command_lines("run", *arguments)
    assert code == 0
    summary = json.loads(out)
    for key, value in found["trials"][number]["values"].items():
        assert summary[key] == value


def test_objectives_by_name_and_one_alone(call: Call, inline: Inline, folder: Path) -> None:
    given = ("--trials", "3", "-o", "t", "--objectives", "classes.chat.p99_e2el_ms")
    code, out, _ = call(*VLLM, *given)
    found = json.loads((folder / "t/tune.json").read_text())
    assert code == 0 and found["objectives"] == {"classes.chat.p99_e2el_ms": "minimize"}
    assert len(found["front"]) == 1 and "classes.chat.p99_e2el_ms (less)" in out
    assert (folder / "t/pareto.png").exists()
    asked = ("--trials", "1", "-o", "u", "--objectives", "goodput,throughput,attainment")
    keys = list(told(call, *VLLM, *asked)["objectives"])
    assert keys == ["request_goodput", "output_throughput", "slo_attainment"]


def test_without_targets_attainment_is_no_objective(call: Call, inline: Inline) -> None:
    found = told(call, *VLLM, "--trials", "1", "-o", "t", "--without-slo")
    assert list(found["objectives"]) == ["output_throughput", "p99_ttft_ms"]


def test_parameters_of_rotating_without_a_space(call: Call, inline: Inline) -> None:
    found = told(call, "t.jsonl", "--trials", "2", "-o", "t")
    assert "scheduler.max_num_seqs" in found["space"] and len(found["space"]) > 8
    few = told(call, "t.jsonl", "--trials", "2", "-o", "u", "--params", "hysteresis,rotation")
    assert set(few["space"]) == {"scheduler.hysteresis", "scheduler.rotation"}


def test_settings_that_do_not_fit_together_are_failed_trials(
    call: Call, inline: Inline, folder: Path
) -> None:
    """They are told before they run; others have nothing to measure, or a policy that is stuck."""
    (folder / "fit.toml").write_text(
        "[scheduler]\nmax_num_seqs = [8, 400]\nmax_num_batched_tokens = [300, 8192]\n"
    )
    (folder / "cut.toml").write_text(
        "[run]\nkv_blocks = [100, 5000]\nmax_model_len = [1000, 4000]\n"
    )
    (folder / "stuck.toml").write_text('[run]\nscheduler = ["vllm", "harness:IdleScheduler"]\n')
    for space, reason in (
        ("fit", "scheduler.max_num_batched_tokens: expected at least max_num_seqs (400), got 300"),
        ("cut", "no p99_ttft_ms"),
        ("stuck", "requests can never run"),
    ):
        given = ("t.jsonl", "--scheduler", "vllm", "--space", f"{space}.toml", "--trials", "10")
        found = told(call, *given, "-o", space)
        assert any(reason in (trial["failure"] or "") for trial in found["trials"]), found["trials"]
        for trial in found["trials"]:
            assert (trial["values"] is None) == (trial["failure"] is not None)
        assert found["front"]


def test_a_process_that_dies_makes_no_failed_trial(
    call: Call, inline: Inline, folder: Path
) -> None:
    straight = told(call, *VLLM, "--trials", "6", "-o", "s")
    inline.tasks.clear()
    inline.kills = 3
    code, _, err = call(*VLLM, "--trials", "6", "-o", "t")
    assert code == 1 and "its process died 2 times" in err[-1] and "goes on from there" in err[-1]
    assert told(call, *VLLM, "--trials", "6", "-o", "t") == straight


def test_without_the_configuration_as_it_is_there_is_no_trial(call: Call, inline: Inline) -> None:
    inline.kills = 0
    code, out, err = call(*VLLM, "--trials", "1", "-o", "t")
    assert (code, out) == (1, "")
    assert err[-1].startswith("error: arm as it is: its process died 2 times")


def test_a_tuning_in_which_every_trial_failed(call: Call, inline: Inline, folder: Path) -> None:
    """What it was compared with is shown nevertheless."""
    settings = "[run]\nkv_blocks = [100]\nmax_model_len = [4000]\n"
    (folder / "space.toml").write_text(settings)
    code, out, err = call(*VLLM, "--trials", "2", "-o", "t")
    assert (code, err[-1]) == (1, "tuning in t")
    assert "Front: 0 of 2 trials" in out and "as it is" in out
    assert "2 trials failed, the first: " in " ".join(out.split())
    assert not (folder / "t/best.toml").exists()


# -- going on -------------------------------------------------------------------------------------


def test_a_new_tuning_that_is_stopped_at_once_leaves_nothing(
    call: Call, inline: Inline, folder: Path
) -> None:
    inline.dies_at = 0
    code, _, err = call(*VLLM, "--trials", "4", "-o", "t")
    assert (code, err[-1]) == (130, "interrupted") and not (folder / "t").exists()


def test_a_tuning_goes_on_after_its_first_write_failed(
    call: Call, inline: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def on_a_full_disk(path: Path, _: Task) -> Iterator[None]:
        path.touch()
        raise SuperInferError(f"cannot write {path}: full")
        yield

    with monkeypatch.context() as full:
        full.setattr("sim.studies.tune.opened", on_a_full_disk)
        code, _, err = call(*VLLM, "--trials", "1", "-o", "t")
    assert (code, err[-1]) == (1, "error: cannot write t/study.db: full")
    assert len(told(call, *VLLM, "--trials", "1", "-o", "t")["trials"]) == 1


def test_a_tuning_goes_on_where_it_was(call: Call, inline: Inline, folder: Path) -> None:
    straight = told(call, *VLLM, "--trials", "14", "-o", "s")
    inline.tasks.clear()
    for number in (3, 4, 7):  # Ctrl-C in the middle of batches
        inline.dies_at = number
        code, _, err = call(*VLLM, "--trials", "14", "-o", "t")
        assert (code, err[-1]) == (130, "interrupted")
    inline.dies_at = -1
    assert told(call, *VLLM, "--trials", "14", "-o", "t") == straight
    different = {json.dumps(trial["params"]) for trial in straight["trials"]}
    assert len(inline.tasks) == len(different), "nothing ran twice"
    assert told(call, *VLLM, "--trials", "14", "-o", "t") == straight
    assert len(inline.tasks) == len(different) and STARTUP < 14


def test_more_trials_go_on_from_those_of_before(call: Call, inline: Inline) -> None:
    few = told(call, *VLLM, "--trials", "3", "-o", "t", "--storage", "x/y/study.db")
    more = told(call, *VLLM, "--trials", "5", "-o", "t", "--storage", "x/y/study.db")
    assert more["trials"][:3] == few["trials"] and len(more["trials"]) == 5


def test_a_storage_alone_has_its_runs_beside_it(call: Call, inline: Inline, folder: Path) -> None:
    one = told(call, *VLLM, "--trials", "2", "--storage", "study.db")
    assert (folder / "study-runs/tune.json").exists()
    shutil.rmtree(folder / "study-runs/points")
    inline.tasks.clear()
    assert told(call, *VLLM, "--trials", "2", "--storage", "study.db") == one
    assert len(inline.tasks) == 1, "the trials are known; what is compared with is run again"


def test_a_configuration_that_cannot_run_as_it_is_fails(call: Call, inline: Inline) -> None:
    Path("run.toml").write_text("[run]\nlag = [0, 1]\n")
    code, out, err = call("t.jsonl", "--space", "run.toml", "--duration", "0.001", "-o", "t")
    assert (code, out) == (1, "")
    assert err[-1].startswith("error: the configuration as it is has no ")


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--objectives", "p99_tfft_ms"), "--objectives: expected a number of the summary, got"),
        (("--objectives", "goodput,request_goodput"), "--objectives: expected different ones"),
        (("--objectives", "slo_attainment", "--without-slo"), "no request has a target"),
        (("--params", "max_seqs"), "--params 'max_seqs': unknown"),
        (("--params", "pace_margin=0:1"), "expected names alone; ranges go into --space"),
        (("--space", "none.toml"), "none.toml: cannot read"),
        (("--space", "bad.toml"), "space of scheduler.max_seqs: scheduler.max_seqs: unknown"),
        (("--space", "worse.toml"), "space of run.tp"),
        (("--storage", "t.jsonl"), "expected an SQLite database of trials"),
        (
            ("--storage", "t.jsonl/s.db"),
            "t.jsonl/s-runs: cannot write here: Not a directory",
        ),
        (("--seeds", "2"), "t.jsonl is the same for every seed"),
        (("--scheduler", "vlm"), "did you mean 'vllm'?"),
        (("--engine", "dask"), "--engine dask: expected one of processes, ray"),
    ],
)
def test_mistakes_are_one_line(
    call: Call, folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    (folder / "bad.toml").write_text("[scheduler]\nmax_seqs = [1, 2]\n")
    (folder / "worse.toml").write_text("[run]\ntp = [1, 0]\n")
    code, out, err = call("t.jsonl", "--scheduler", "vllm", *arguments)
    assert (code, out) == (2, "")
    assert len(err) == 1 and err[0].startswith("error: ") and message in err[0]


def test_trials_of_another_task_are_refused(call: Call, inline: Inline, folder: Path) -> None:
    told(call, *VLLM, "--trials", "2", "-o", "t", "--storage", "study.db")
    again = (*VLLM, "--trials", "2", "-o", "t", "--storage", "study.db")
    for other, difference in (
        (("--rate-scale", "2"), "config.run.rate_scale: 1.0 there, 2.0 here"),
        (("--search-seed", "1"), "seed: 0 there, 1 here"),
        (("--objectives", "goodput"), "objectives: "),
    ):
        code, _, err = call(*again, *other)
        assert code == 2 and difference in err[-1] and "give another --out" in err[-1]
    trace = (folder / "t.jsonl").read_text()
    (folder / "t.jsonl").write_text(trace[: trace.rindex("{")])
    code, _, err = call(*again)
    assert code == 2 and "files.t.jsonl: " in err[-1], "the trace is another one"


def test_without_optuna_it_says_what_to_install(
    call: Call, inline: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = call("nowhere.jsonl")
    want = "error: tune: needs Optuna; install it with: pip install 'superinfer[tune]'"
    assert (code, err) == (2, [want])


# -- killed ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_tuning_goes_on_and_runs_nothing_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed twice in the middle of a batch: the same trials, and every run was made once."""
    (folder / "counting.py").write_text(COUNTING)
    (folder / "space.toml").write_text("[scheduler]\nmax_num_seqs = { low = 1, high = 400 }\n")
    monkeypatch.setenv("COUNTING_LOG", str(folder / "log"))
    given = (
        *("t.jsonl", "--scheduler", "counting:Counting", "--space", "space.toml", "--json"),
        *("--set", "scheduler.pause_s=0.4", "--workers", "2", "--trials", "11", "--no-plots"),
    )
    here, mains = folder / "t", set[str]()

    def begun() -> int:
        """Runs that were begun, without the look at the objectives before them."""
        return sum(pid not in mains for pid in (folder / "log").read_text().split())

    for wanted in (3, 7):
        running = process("tune", *given, "-o", "t")
        until(lambda wanted=wanted: len(stored(here)) >= wanted, running)
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        mains.add(str(running.pid))
        until(lambda: none_works(folder / "log"))
        kept = stored(here)
        lost = begun() - len(kept)
        assert wanted <= len(kept) < 11
    again = process("tune", *given, "-o", "t")
    out, err = again.communicate()
    assert again.returncode == 0, err
    mains.add(str(again.pid))
    found = stored(here)
    assert {key: found[key] for key in kept} == kept, "what was there is as it was"
    assert begun() == len(found) + lost, "beside those that were killed, each was begun once"
    assert lost <= 4, "two at a time, killed twice"
    whole, err = process("tune", *given, "-o", "w").communicate()
    assert out == whole, err
    assert len(json.loads(out)["trials"]) == 11
