"""What `run`, `compare` and `suggest-slo` say of a trace that is more than a device serves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from superinfer.lab.notices.overload import TOO_HIGH

Command = Callable[..., tuple[int, str, str]]


def trace(prompt_tokens: int) -> str:
    """80 requests, one every 0.4 s."""
    record = {"input_length": prompt_tokens, "output_length": 4, "class": "chat"}
    return "".join(json.dumps({"timestamp": 400 * i, **record}) + "\n" for i in range(80))


@pytest.fixture(autouse=True)
def folder(work_folder: Path) -> Path:
    """Prompts that take an A100 longer than 0.4 s each, and shorter ones."""
    (work_folder / "much.jsonl").write_text(trace(9000))
    (work_folder / "fits.jsonl").write_text(trace(900))
    return work_folder


@pytest.mark.parametrize(
    ("arguments", "arms"),
    [
        (("run", "--no-plots"), [""]),
        (("compare", "--no-plots", "--schedulers", "vllm,fcfs"), ["arm vllm: ", "arm fcfs: "]),
        (("suggest-slo",), [""]),
    ],
)
def test_only_an_overload_is_said_once_for_each_run(
    command: Command, arguments: tuple[str, ...], arms: list[str]
) -> None:
    name, *options = arguments
    _, _, much = command(name, "much.jsonl", *options)
    said = [line for line in much.splitlines() if f"{TOO_HIGH}: requests arrive" in line]
    assert [line.partition(TOO_HIGH)[0] for line in said] == [f"warning: {arm}" for arm in arms]
    assert all("requests arrive for 32 s, and first tokens come for" in line for line in said)
    code, _, fits = command(name, "fits.jsonl", *options)
    assert code == 0
    assert TOO_HIGH not in fits


def test_an_arm_that_is_nearly_over_is_named_beside_one_that_is(
    command: Command, folder: Path
) -> None:
    (folder / "nearly.jsonl").write_text(trace(5500))
    arm = ("compare", "nearly.jsonl", "--no-plots", "--schedulers", "fcfs")
    assert TOO_HIGH not in command(*arm)[2]
    (folder / "slow.toml").write_text(
        '[run]\nscheduler = "vllm"\n[scheduler]\nmax_num_batched_tokens = 256\n'
    )
    _, _, error = command(*arm, "--arm", "slow.toml")
    for name in ("fcfs", "slow"):
        assert f"warning: arm {name}: {TOO_HIGH}" in error


def test_a_closed_loop_is_never_too_much(command: Command) -> None:
    _, _, error = command("run", "much.jsonl", "--concurrency", "4", "--no-plots")
    assert TOO_HIGH not in error
