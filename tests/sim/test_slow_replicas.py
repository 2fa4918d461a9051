"""Replicas whose steps take longer than the cost model says (`run.slow_replicas`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.summaries import simulated
from sim.workload import load_workload
from superinfer.errors import ConfigError
from superinfer.lab.config import load_config
from superinfer.metrics import RunMetrics

RECORD = {"input_length": 3000, "output_length": 40, "class": "chat"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with traces of one request, and of many."""
    monkeypatch.chdir(tmp_path)
    for name, count in (("one.jsonl", 1), ("many.jsonl", 60)):
        lines = (json.dumps({"timestamp": 150 * number, **RECORD}) for number in range(count))
        Path(name).write_text("\n".join(lines))
    return tmp_path


def run(trace: str, *settings: str, **more: Any) -> tuple[RunMetrics, dict[str, Any]]:
    config = load_config(None, settings, trace=trace, **more)
    metrics, summary = simulated(config, load_workload(config))
    return metrics, dict(summary)


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("scheduler", ["fcfs", "vllm_v1", "rotating"])
def test_all_steps_of_a_slow_replica_take_longer(scheduler: str, lag: int) -> None:
    """Of one request alone they are all that there is: a prompt in chunks, then decodes."""
    usual, _ = run("one.jsonl", scheduler=scheduler, lag=lag)
    slow, summary = run("one.jsonl", "run.slow_replicas.0=2.5", scheduler=scheduler, lag=lag)
    for name in ("ttft_s", "tpot_s", "e2el_s"):
        longer = getattr(slow.view, name) / getattr(usual.view, name)
        np.testing.assert_allclose(longer, 2.5, rtol=1e-9)
    assert "run.slow_replicas: steps of replica 0 take 2.5 times as long" in summary["notes"]


def test_one_of_several() -> None:
    """Whose requests are sent in turn: its own take longer, those of the other are as they were."""
    usual, _ = run("many.jsonl", replicas=2, router="round_robin")
    slow, summary = run("many.jsonl", "run.slow_replicas.1=3", replicas=2, router="round_robin")
    before, after = usual.view.e2el_s, slow.view.e2el_s
    np.testing.assert_array_equal(after[::2], before[::2])
    assert (after[1::2] > 2.9 * before[1::2]).all()
    one, other = (each["p99_ttft_ms"] for each in summary["replicas"])
    assert other > 2 * one


def test_a_router_sees_who_is_slow() -> None:
    """By what is outstanding there."""
    _, summary = run("many.jsonl", "run.slow_replicas.1=4", replicas=2, router="least_loaded")
    one, other = (each["submitted"] for each in summary["replicas"])
    assert one + other == 60
    assert other < one / 2


def test_as_long_as_ever() -> None:
    usual, _ = run("many.jsonl", replicas=2)
    same, _ = run("many.jsonl", "run.slow_replicas.0=1", replicas=2)
    np.testing.assert_array_equal(same.view.e2el_s, usual.view.e2el_s)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("run.slow_replicas.2=2", "run.slow_replicas.2: expected a replica from 0 to 1 "),
        ("run.slow_replicas.one=2", "run.slow_replicas.one: expected a replica from 0 to 1 "),
        ("run.slow_replicas.01=2", "run.slow_replicas.01: expected a replica from 0 to 1 "),
        ("run.slow_replicas.1=0", "run.slow_replicas.1: expected a number >= 0.01, got 0"),
        ("run.slow_replicas.1=nan", "run.slow_replicas.1: expected a number >= 0.01, got nan"),
        ("run.slow_replicas.1=101", "run.slow_replicas.1: expected a number <= 100, got 101"),
        ("run.slow_replicas.1=x", "run.slow_replicas.1: expected a number, got 'x'"),
        ("run.slow_replicas=2", "run.slow_replicas: expected a table"),
    ],
)
def test_replicas_that_are_none(setting: str, words: str) -> None:
    """Also beside many that are right: the line names that one."""
    with pytest.raises(ConfigError) as caught:
        load_config(None, ("run.slow_replicas.0=2", setting), replicas=2)
    assert str(caught.value).startswith(words) and len(str(caught.value)) < 90
