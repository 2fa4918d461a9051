"""`superinfer-sim compare` as a user meets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from commands import Answer, Cli
from short_trace import left_in, only_error


@pytest.fixture(autouse=True)
def folder(short_trace_folder: Path) -> Path:
    return short_trace_folder


def arms_of(answer: Answer) -> dict[str, Any]:
    """The summary of every arm, by name."""
    return {name: runs[0]["summary"] for name, runs in answer.json["arms"].items()}


def test_compare_runs_every_scheduler_on_one_workload(cli: Cli, folder: Path) -> None:
    answer = cli("compare", "t.jsonl", "--no-plots", "--json", "--out", "c")
    assert list(answer.json["arms"]) == ["vllm", "fcfs", "priority", "rotating"]
    assert left_in(folder / "c") == {"vllm", "fcfs", "priority", "rotating", "comparison.json"}
    for name, summary in arms_of(answer).items():
        assert (summary["completed"], summary["run"]["run"]["scheduler"]) == (12, name)
    again = cli("compare", "t.jsonl", "--out", "c", "--schedulers", "fcfs, priority")
    pages = {"compare.png", "report.html", "comparison.json"}
    assert left_in(folder / "c-2") == {"fcfs", "priority", *pages}
    assert "report.html" in left_in(folder / "c-2/priority")
    assert "priority" in again.out
    assert "results in c-2/fcfs\n" in again.err


def test_arms_are_laid_over_the_configuration(cli: Cli, folder: Path) -> None:
    (folder / "base.toml").write_text(
        '[run]\ntrace = "t.jsonl"\nscheduler = "vllm"\ndevice = "h100"\nlimit = 6\n'
        "[scheduler]\nchunked = true\n"
    )
    (folder / "big.toml").write_text("[scheduler]\nmax_num_seqs = 300\n")
    (folder / "other.toml").write_text('[run]\nscheduler = "fcfs"\n')
    arms = ("--arm", "big.toml", "--arm", "other.toml")
    answer = cli("compare", "--config", "base.toml", *arms, "--no-plots", "--json", "--out", "c")
    settings = {name: summary["run"] for name, summary in arms_of(answer).items()}
    assert set(settings) == {"big", "other"}
    assert {s["run"]["device"] for s in settings.values()} == {"h100"}
    assert {s["requests"] for s in settings.values()} == {6}
    assert (settings["big"]["scheduler"]["chunked"], settings["big"]["run"]["scheduler"]) == (
        True,
        "vllm",
    )
    assert settings["big"]["scheduler"]["max_num_seqs"] == 300
    assert settings["other"]["run"]["scheduler"] == "fcfs"
    note = "warning: base.toml: [scheduler] is for vllm: not used with fcfs\n"
    assert note in answer.err


def test_the_command_line_wins_over_arms(cli: Cli, folder: Path) -> None:
    (folder / "slow.toml").write_text('[run]\ndevice = "l40s"\ntrace = "none.jsonl"\n')
    options = ("--arm", "slow.toml", "--schedulers", "vllm", "--device", "h200", "--no-plots")
    answer = cli("compare", "t.jsonl", *options, "--json", "--out", "c")
    assert list(answer.json["arms"]) == ["vllm", "slow"]
    assert arms_of(answer)["slow"]["run"]["run"]["device"] == "h200"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--schedulers", "vllm"], "expected two or more --schedulers or --arm, got vllm"),
        (["--schedulers", ","], "expected two or more --schedulers or --arm, got none"),
        (["--arm", "a.toml"], "expected two or more --schedulers or --arm, got a"),
        (["--schedulers", "vllm,vllm"], "expected different names, got 'vllm' twice"),
        (["--schedulers", "vllm,fcsf"], "scheduler 'fcsf': unknown (did you mean 'fcfs'?)"),
        (["--schedulers", "vllm,a", "--arm", "a.toml"], "arm a: scheduler 'a': unknown"),
        (["--schedulers", "vllm", "--arm", "none.toml"], "none.toml: cannot read"),
        (["--schedulers", "vllm", "--arm", "a.toml"], "arm a: run.limit: expected 0 as in vllm"),
        (["--schedulers", "vllm", "--arm", "k.toml"], "arm k: classes: expected the same as in v"),
        (["--schedulers", "vllm", "--arm", "m.toml"], "arm m: llama-3.1-70b needs 131.4 GiB"),
        (["--set", "scheduler.chunked=true"], "arm fcfs: scheduler.chunked: unknown"),
        (["--out", "t.jsonl"], "--out: t.jsonl: expected a folder, got a file"),
        (["--out", "."], "--out: expected the name of a result folder"),
    ],
)
def test_bad_comparisons(cli: Cli, folder: Path, options: list[str], words: str) -> None:
    (folder / "a.toml").write_text("[run]\nlimit = 3\n")
    (folder / "k.toml").write_text("[classes.chat]\nttft_ms = 3\n")
    (folder / "m.toml").write_text('[run]\nmodel = "llama-3.1-70b"\n')
    only_error(cli("compare", "t.jsonl", *options), 2, words)
    assert left_in(folder) == {"t.jsonl", "a.toml", "k.toml", "m.toml"}


def test_an_arm_that_fails_leaves_the_others_whole(cli: Cli, folder: Path) -> None:
    (folder / "bad.toml").write_text('[run]\nscheduler = "harness:IdleScheduler"\n')
    options = ("--schedulers", "vllm", "--arm", "bad.toml", "--no-plots", "--out", "c")
    answer = cli("compare", "t.jsonl", *options)
    assert (answer.code, answer.out) == (1, "")
    stuck = (
        "12 requests can never run (first: 1): the scheduler plans nothing, and nothing is to come"
    )
    assert "error: arm bad: scheduler 'harness:IdleScheduler' (" in answer.err
    assert answer.err.endswith(f"harness.py): {stuck}\n")
    assert left_in(folder / "c") == {"vllm", ".study"}  # the same command goes on from there


def test_a_comparison_names_the_arms_without_a_profile(cli: Cli, folder: Path) -> None:
    (folder / "other.toml").write_text('[run]\nscheduler = "vllm"\ndevice = "l40s"\n')
    err = cli("compare", "t.jsonl", "--schedulers", "vllm", "--arm", "other.toml", "--no-plots").err
    assert [line for line in err.splitlines() if "no profile" in line] == [
        "warning: arm other: no profile of llama-3.1-8b on l40s at tp 1: step times are nominal "
        "figures, and no real step is as fast"
    ]


FITS = (
    "note: run.kv_blocks: what fits differs by arm (tokens: vllm, fcfs 464,784; tensorrt_llm "
    "461,504; andes 460,880), for systems keep different amounts of memory free: run.kv_blocks "
    "with run.block_tokens gives all arms the same\n"
)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ((), True),
        (("--set", "run.kv_blocks=9000"), False),
        (("--set", "run.kv_blocks=9000", "--set", "run.block_tokens=16"), False),
    ],
)
def test_other_memory_by_default_is_told(cli: Cli, settings: tuple[str, ...], told: bool) -> None:
    names = "vllm,fcfs,tensorrt_llm,andes"
    answer = cli("compare", "t.jsonl", "--schedulers", names, "--no-plots", *settings)
    assert answer.code == 0
    assert (FITS in answer.err) is told
    assert ("what fits differs" in answer.err) is told


def test_arms_on_other_machines_may_have_other_memory(cli: Cli, folder: Path) -> None:
    (folder / "other.toml").write_text('[run]\nscheduler = "andes"\ndevice = "h200"\n')
    answer = cli("compare", "t.jsonl", "--schedulers", "vllm", "--arm", "other.toml", "--no-plots")
    assert answer.code == 0 and "what fits differs" not in answer.err


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("--set", "run.kv_blocks=90"), True),
        (("--set", "run.kv_blocks=90", "--set", "run.block_tokens=16"), False),
        ((), False),
    ],
)
def test_blocks_of_other_sizes_are_told(cli: Cli, settings: tuple[str, ...], told: bool) -> None:
    """The same number of them is not the same memory; without a number all have the device's."""
    names = "vllm,vllm_v1,fcfs,edf"
    answer = cli("compare", "t.jsonl", "--schedulers", names, "--no-plots", *settings)
    assert answer.code == 0
    line = (
        "warning: run.kv_blocks: 90 blocks are not the same memory (tokens: vllm, vllm_v1 1,440; "
        "fcfs, edf 2,880): run.block_tokens gives all arms the same\n"
    )
    assert (line in answer.err) is told
    assert "what fits differs" not in answer.err
