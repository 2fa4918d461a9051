"""What is said of arms of which some run as their releases ship."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sim.commands import RunOptions
from sim.studies.compare import compare_command
from sim.studies.unequal_arms import unequal_memory, unequal_release
from superinfer.lab.config import Config, load_config

TRACE = '{"timestamp":0,"input_length":40,"output_length":2}\n'
BOTH = (
    "note: run.as_released: arms differ by more than their schedulers (prefix caching off "
    "rotating, vllm, on vllm_v1; lag 0 rotating, 1 vllm_v1, vllm): --prefix-caching --lag 1 gives "
    "all of them the same"
)


def arms(*names: str, **run: Any) -> dict[str, Config]:
    return {name: load_config(scheduler=name, **run) for name in names}


def test_who_has_what() -> None:
    assert unequal_release(arms("rotating", "vllm_v1", "vllm", as_released=True)) == BOTH


def test_the_same_for_all() -> None:
    """Given, shipped by both, or by nobody's release."""
    given = arms("rotating", "vllm_v1", as_released=True, prefix_caching=True, lag=1)
    shipped = arms("sglang", "vllm_v1", as_released=True)
    for alike in (given, shipped, arms("fcfs", "edf", as_released=True)):
        assert unequal_release(alike) == ""


def test_arms_that_were_made_so() -> None:
    by_hand = {"a": load_config(lag=0), "b": load_config(lag=1)}
    assert unequal_release(by_hand) == ""


def test_one_of_the_two() -> None:
    line = unequal_release(arms("vllm", "vllm_v1", as_released=True))
    assert "(prefix caching off vllm, on vllm_v1): --prefix-caching gives" in line


def test_memory_that_was_asked_for_is_no_surprise() -> None:
    """Other blocks, or another machine; the same of both is told."""
    tokens = {"a": 1600, "b": 3200}
    other = {"a": load_config(kv_blocks=100), "b": load_config(kv_blocks=200)}
    assert unequal_memory(other, tokens) == ""
    machines = {"a": load_config(device="h100"), "b": load_config(device="h200")}
    assert unequal_memory(machines, tokens) == ""
    same = dict.fromkeys("ab", load_config(kv_blocks=100))
    line = unequal_memory(same, tokens)
    assert "100 blocks are not the same memory (tokens: a 1,600; b 3,200)" in line


def test_a_comparison_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.jsonl").write_text(TRACE)
    found = arms("vllm", "vllm_v1", trace="t.jsonl", as_released=True)
    assert compare_command(found, RunOptions(out=tmp_path / "c", plots=False)) == 0
    assert unequal_release(found) in capsys.readouterr().err
