"""How far a run leaves what its profile was measured on: counted by step time, and told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Cli

from sim.run import SimResult, run_simulation
from sim.workload import load_workload
from superinfer.lab.config import load_config
from superinfer.lab.notices.trust import range_warning
from superinfer.lab.timelines.replay import Step, replay

RECORD = '{{"timestamp":{at},"input_length":{prompt},"output_length":{answer},"class":"chat"}}\n'
KEYS = "prefill tokens with their context"
PROFILE = "a100-80g_llama-3.1-8b_tp1"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a trace inside the range of the 8B profile and one that leaves it."""
    inside = [(40 * i, 500 + 37 * i, 20 + i) for i in range(12)]
    outside = [(0, 300, 900), (50, 18_000, 40), (60, 500, 300), (700, 20_000, 5)]
    for name, rows in (("inside", inside), ("outside", outside)):
        text = "".join(RECORD.format(at=a, prompt=p, answer=o) for a, p, o in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def simulated(trace: str, sink: Any = None, **run: Any) -> SimResult:
    config = load_config(None, (), trace=f"{trace}.jsonl", **run)
    return run_simulation(config, load_workload(config), sink)


def steps_of(trace: str, lag: int, scheduler: str) -> tuple[SimResult, list[Step]]:
    """A run, and its steps one by one out of the event log."""
    events: list[Any] = []
    result = simulated(trace, events.append, lag=lag, scheduler=scheduler)
    return result, replay(events, (), lag=lag).steps


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("scheduler", ["vllm", "fcfs", "priority"])
def test_the_share_is_that_of_the_time_of_the_steps(scheduler: str, lag: int) -> None:
    result, steps = steps_of("outside", lag, scheduler)
    outside_s = total_s = 0.0
    for step in steps:
        seconds = step.end_s - step.start_s
        total_s += seconds
        if any(tokens + context > 16_384 for _, tokens, context in step.chunks):
            outside_s += seconds
    trust = result.trust
    assert 0.03 < trust["extrapolated_share"] < 0.5
    assert trust["extrapolated_share"] == pytest.approx(outside_s / total_s, rel=1e-6)
    assert trust["measured_share"] == 1.0 - trust["extrapolated_share"]
    (left,) = trust["left_range"]
    share = trust["extrapolated_share"]
    assert left == {"what": KEYS, "limit": 16_384, "largest": 20_000, "share": share}


@pytest.mark.parametrize("scheduler", ["vllm", "fcfs", "priority", "rotating"])
def test_a_run_inside_the_range_leaves_nothing(scheduler: str) -> None:
    trust = simulated("inside", scheduler=scheduler).trust
    assert (trust["measured_share"], trust["extrapolated_share"]) == (1.0, 0.0)
    assert trust["left_range"] == []


def test_questions_of_a_scheduler_do_not_count() -> None:
    asked = simulated("inside", scheduler="harness:CuriousScheduler").trust
    assert asked == simulated("inside", scheduler="fcfs").trust
    assert asked["extrapolated_share"] == 0.0


def test_a_run_without_a_profile_has_no_range() -> None:
    trust = simulated("outside", device="l40s").trust
    assert (trust["measured_share"], trust["extrapolated_share"]) == (0.0, 0.0)
    assert trust["left_range"] == []


# -- what the user is told ------------------------------------------------------------------------


@pytest.fixture
def err(cli: Cli) -> Callable[..., list[str]]:
    """Call the command line; returns the lines on standard error."""

    def call(*arguments: str) -> list[str]:
        answer = cli(*arguments, "--no-plots")
        assert not answer.code
        return answer.err.splitlines()

    return call


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_run_warns_in_one_line(err: Callable[..., list[str]], form: tuple[str, ...]) -> None:
    result, warning = err("run", "outside.jsonl", "--out", "r", *form)
    trust = json.loads(Path("r/summary.json").read_text())["trust"]
    assert result == "results in r"
    assert warning == f"warning: {range_warning(trust)}"
    share = f"{100 * trust['extrapolated_share']:.3g} %"
    assert warning == (
        f"warning: {share} of the step time is extrapolated from {PROFILE}: "
        f"{KEYS} measured up to 16,384, went to 20,000"
    )


def test_run_inside_the_range_says_nothing(err: Callable[..., list[str]]) -> None:
    assert err("run", "inside.jsonl", "--out", "r") == ["results in r"]


def test_compare_warns_for_every_arm_that_left(err: Callable[..., list[str]], folder: Path) -> None:
    (folder / "roofline.toml").write_text('[run]\ncosts = "roofline"\n')
    options = ("--schedulers", "vllm,fcfs", "--arm", "roofline.toml", "--out", "c")
    lines = [line for line in err("compare", "outside.jsonl", *options) if "warning" in line]
    assert [line.split(":")[:2] for line in lines] == [
        ["warning", " arm vllm"],
        ["warning", " arm fcfs"],
    ]
    for line in lines:
        assert line.endswith(f"{KEYS} measured up to 16,384, went to 20,000")
    assert not [
        line
        for line in err("compare", "inside.jsonl", "--schedulers", "vllm,fcfs", "--out", "d")
        if line.startswith("warning")
    ]


def test_several_limits_are_told_with_their_shares() -> None:
    left = [
        {"what": "a", "limit": 1000, "largest": 2500, "share": 0.1234},
        {"what": "b", "limit": 2, "largest": 3, "share": 0.000001},
    ]
    trust = {"profile": "p", "extrapolated_share": 0.1234, "left_range": left}
    assert range_warning(trust) == (
        "12.3 % of the step time is extrapolated from p: a measured up to 1,000, went to 2,500 "
        "(12.3 %); b measured up to 2, went to 3 (< 0.01 %)"
    )
    assert range_warning({"profile": "p"}) == ""
