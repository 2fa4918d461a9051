"""`superinfer-sim run` and `compare` as a user meets them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from commands import Answer, Cli
from typer.main import get_command

from sim.cli import app

REPOSITORY = Path(__file__).resolve().parents[2]

RECORD = '{{"timestamp":{at},"input_length":{prompt},"output_length":{answer},"class":"{name}"}}\n'
CLASSES = ("chat", "code", "batch")
TRACE = "".join(
    RECORD.format(at=40 * i, prompt=200 + 37 * i, answer=5 + i, name=CLASSES[i % 3])
    for i in range(12)
)
AT_ONCE = "".join(RECORD.format(at=0, prompt=50, answer=4, name="chat") for _ in range(8))

COUNTS = """
submitted completed rejected failed duration total_input_tokens total_output_tokens
request_throughput output_throughput total_token_throughput request_goodput max_itl_ms
slo_attainment ttft_attainment tpot_attainment paced_attainment token_goodput preemptions rotations
recompute_tax prefix_hit_rate peak_kv_bytes peak_slab_bytes h2d_bytes d2h_bytes
write_through_bytes write_through_useful_bytes write_through_wasted_bytes losing_offloads
prefetch_useful_bytes prefetch_wasted_bytes kv_bits_mean kv_kl kv_perplexity_change jain_index
vtc_gap worst_stall_ms worst_wait_ms
scheduler_s wall_s sim_requests_per_wall_s steps events classes tenants trust run
"""
QUANTILES = [
    f"{statistic}_{metric}_ms"
    for statistic in ("mean", "median", "std", "p90", "p95", "p99", "p999")
    for metric in ("ttft", "tpot", "itl", "e2el")
]
TRUST = """
profile source measured_share extrapolated_share left_range assumed family_error
host_overhead_origin
"""
COLUMNS = """
request_id session_id tenant class priority namespace arrival_s first_token_s finish_s
queue_s ttft_ms tpot_ms e2el_ms max_itl_ms input_tokens output_tokens max_tokens cached_tokens
recomputed_tokens preemptions rotations h2d_bytes d2h_bytes kv_bits state reject_reason
slo_met
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a small trace in it."""
    (tmp_path / "t.jsonl").write_text(TRACE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def process(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start the command line as a process of its own."""
    return python("-m", "sim", *arguments, **options)


def python(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **options.pop("env", {})}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, *arguments], env=environment, **options)


def finished(running: subprocess.Popen[bytes], stdin: bytes | None = None) -> Answer:
    out, err = running.communicate(stdin, timeout=60)
    return Answer(running.returncode, (out or b"").decode(), (err or b"").decode())


def only_error(answer: Answer, code: int, *words: str) -> None:
    """Assert one error line with these words, and nothing else."""
    assert (answer.code, answer.out) == (code, ""), answer
    assert re.fullmatch(r"error: [^\n]+\n", answer.err), answer.err
    for word in words:
        assert word in answer.err


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# -- what a run gives -----------------------------------------------------------------------------


def test_run_prints_a_table_and_writes_a_folder(cli: Cli, folder: Path) -> None:
    answer = cli("run", "t.jsonl", "--no-plots")
    assert answer.code == 0
    for word in ("requests submitted", "SLO attainment", "TTFT", "chat"):
        assert word in answer.out
    (result,) = (folder / "runs").iterdir()
    assert re.fullmatch(r"t-rotating-\d{8}-\d{6}", result.name)
    assert answer.err == f"results in runs/{result.name}\n"
    assert left_in(result) == {
        "summary.json",
        "config.toml",
        "requests.parquet",
        "timeline.parquet",
        "itl.parquet",
    }


def test_json_is_the_summary_with_every_key(cli: Cli, folder: Path) -> None:
    answer = cli("run", "t.jsonl", "--no-plots", "--json", "--out", "r")
    assert answer.json == json.loads((folder / "r" / "summary.json").read_text())
    assert set(answer.json) >= {*COUNTS.split(), *QUANTILES}
    assert set(answer.json["trust"]) == set(TRUST.split())
    assert set(answer.json["classes"]) == set(CLASSES)
    assert {"submitted", "p99_ttft_ms", "slo_attainment"} <= set(answer.json["classes"]["chat"])
    assert (answer.json["submitted"], answer.json["completed"]) == (12, 12)
    assert answer.json["run"]["run"]["seed"] == 0
    assert 0 < answer.json["scheduler_s"] < answer.json["wall_s"]


def test_requests_have_exactly_the_documented_columns(cli: Cli) -> None:
    assert cli("run", "t.jsonl", "--no-plots", "--out", "r").code == 0
    assert pq.read_table("r/requests.parquet").column_names == COLUMNS.split()


def test_plots_are_written_unless_refused(cli: Cli, folder: Path) -> None:
    assert cli("run", "t.jsonl", "--out", "r").code == 0
    assert {path.suffix for path in (folder / "r").iterdir()} >= {".png", ".parquet"}


def test_an_existing_folder_is_left_alone(cli: Cli, folder: Path) -> None:
    (folder / "r").mkdir()
    assert cli("run", "t.jsonl", "--no-plots", "--out", "r").err == "results in r-2\n"
    assert left_in(folder / "r") == set()


def test_trace_from_standard_input(cli: Cli, folder: Path) -> None:
    answer = cli("run", "-", "--no-plots", stdin=TRACE.encode())
    assert answer.code == 0
    assert "results in runs/stdin-rotating-" in answer.err


def test_closed_standard_input(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    only_error(cli("run", "-"), 2, "<stdin>: expected a trace")
    only_error(cli("traces", "stats", "-"), 2, "<stdin>: expected a trace")


def test_trace_from_the_configuration(cli: Cli, folder: Path) -> None:
    (folder / "other.jsonl").write_text(AT_ONCE)
    (folder / "x.toml").write_text('[run]\ntrace = "t.jsonl"\n')
    common = ("--config", "x.toml", "--no-plots", "--json", "--out", "r")
    assert cli("run", *common).json["submitted"] == 12
    assert cli("run", "other.jsonl", *common).json["submitted"] == 8


@pytest.mark.parametrize(("text", "requests"), [(AT_ONCE, 8), (TRACE.splitlines()[0], 1)])
@pytest.mark.parametrize("options", [(), ("--spread",), ("--lag", "1"), ("--prefix-caching",)])
def test_unusual_traces(
    cli: Cli, folder: Path, text: str, requests: int, options: tuple[str, ...]
) -> None:
    (folder / "u.jsonl").write_text(text)
    answer = cli("run", "u.jsonl", "--no-plots", "--json", "--out", "r", *options)
    assert (answer.code, answer.json["completed"]) == (0, requests)


def test_flags_reach_the_settings(cli: Cli) -> None:
    flags = ("--prefix-caching", "--lag", "1", "--without-slo", "--limit", "5", "--seed", "7")
    summary = cli("run", "t.jsonl", "--no-plots", "--json", "--out", "r", "--spread", *flags).json
    settings = summary["run"]["run"]
    wanted = {"prefix_caching": True, "lag": 1, "without_slo": True, "limit": 5, "seed": 7}
    assert settings.items() >= wanted.items()
    assert (settings["spread"], summary["submitted"]) == (True, 5)
    assert summary["slo_attainment"] is None


def test_a_flag_can_take_back_what_a_file_says(cli: Cli, folder: Path) -> None:
    (folder / "x.toml").write_text("[run]\nprefix_caching = true\n")
    options = ("--config", "x.toml", "--no-prefix-caching", "--no-plots", "--json", "--out", "r")
    assert cli("run", "t.jsonl", *options).json["run"]["run"]["prefix_caching"] is False


def test_bad_lines_can_be_skipped(cli: Cli, folder: Path) -> None:
    (folder / "bad.jsonl").write_text(TRACE + "{oops\n")
    only_error(cli("run", "bad.jsonl"), 2, "bad.jsonl:13: expected a JSON object")
    answer = cli("run", "bad.jsonl", "--skip-bad", "--no-plots", "--json", "--out", "r")
    assert (answer.code, answer.json["submitted"]) == (0, 12)
    first = answer.err.removeprefix("warning: bad.jsonl: skipped 1 bad line: line ")
    assert first != answer.err and answer.err.endswith("\nresults in r\n")


@pytest.mark.parametrize(
    "scheduler",
    [
        "vllm",
        "fcfs",
        "priority",
        "edf",
        "vtc",
        "qoserve",
        "fastserve",
        "andes",
        "flexgen",
        "rotating",
    ],
)
@pytest.mark.parametrize("blocks", [1, 2])
def test_too_few_blocks_reject_by_a_named_rule(cli: Cli, scheduler: str, blocks: int) -> None:
    few = ("--scheduler", scheduler, "--set", f"run.kv_blocks={blocks}")
    answer = cli("run", "t.jsonl", *few, "--no-plots", "--json", "--out", "r")
    assert (answer.code, answer.json["rejected"]) == (0, 12)
    reasons = set(pq.read_table("r/requests.parquet").column("reject_reason").to_pylist())
    assert len(reasons) == 1 and None not in reasons


def test_the_resolved_configuration_gives_the_same_run(cli: Cli, folder: Path) -> None:
    (folder / "c.toml").write_text("[classes.chat]\nttft_ms = 17.3\n[classes.new]\ntpot_ms = 3\n")
    first = ("--scheduler", "priority", "--classes", "c.toml", "--set", "classes.code.ttft_ms=250")
    numbers = ("--set", "run.host_step_ms=1.7", "--set", "scheduler.max_num_seqs=4", "--limit", "9")
    assert cli("run", "t.jsonl", *first, *numbers, "--no-plots", "--out", "a").code == 0
    assert cli("run", "--config", "a/config.toml", "--no-plots", "--out", "b").code == 0
    for name in ("config.toml", "requests.parquet", "timeline.parquet", "itl.parquet"):
        assert (folder / "a" / name).read_bytes() == (folder / "b" / name).read_bytes()
    stored = tomllib.loads((folder / "b" / "config.toml").read_text())
    assert stored["classes"]["chat"] == {"ttft_ms": 17.3}
    assert "host_per_sequence_us" not in stored["run"]


def test_settings_that_are_absent_stay_absent(cli: Cli, folder: Path) -> None:
    assert cli("run", "t.jsonl", "--no-plots", "--out", "a").code == 0
    assert "chunked" not in tomllib.loads((folder / "a" / "config.toml").read_text())["scheduler"]
    assert cli("run", "--config", "a/config.toml", "--no-plots", "--out", "b").code == 0
    requests = [(folder / name / "requests.parquet").read_bytes() for name in "ab"]
    assert requests[0] == requests[1]


def test_a_class_whose_name_differs_by_capitals(cli: Cli, folder: Path) -> None:
    """It is another one, which a warning says; one that nobody has at all may be in the file."""
    (folder / "c.toml").write_text("[classes.Code]\nttft_ms = 20\n[classes.others]\nttft_ms = 20\n")
    answer = cli("run", "t.jsonl", "--classes", "c.toml", "--no-plots", "--json")
    assert answer.code == 0
    assert answer.err.count("warning:") == 1
    said = "warning: classes.Code: no request is of class Code (did you mean 'code'?)\n"
    assert said in answer.err


def test_a_scheduler_of_the_users_own(cli: Cli, folder: Path) -> None:
    (folder / "plain_plugin.py").write_text(
        "from dataclasses import dataclass\n"
        "from superinfer.schedulers.fcfs import FcfsScheduler\n"
        "@dataclass\n"
        "class Mine(FcfsScheduler):\n"
        "    patience_s: float = 1.0\n"
    )
    mine = ("--scheduler", "plain_plugin:Mine", "--set", "scheduler.patience_s=2.5", "--no-plots")
    answer = cli("run", "t.jsonl", *mine, "--json")
    assert (answer.code, answer.json["completed"]) == (0, 12)
    assert answer.json["run"]["scheduler"]["patience_s"] == 2.5
    assert "results in runs/t-plain_plugin.Mine-" in answer.err


# -- gates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "code", "line"),
    [
        ("completed>=12", 0, ""),
        ("completed>12", 3, "FAIL: completed>12 (found 12)"),
        ("classes.chat.submitted==5", 3, "FAIL: classes.chat.submitted==5 (found 4)"),
        ("prefix_hit_rate>=0", 3, "FAIL: prefix_hit_rate>=0 (found null)"),
    ],
)
def test_gates(cli: Cli, gate: str, code: int, line: str) -> None:
    answer = cli("run", "t.jsonl", "--no-plots", "--json", "--out", "r", "--require", gate)
    assert (answer.code, answer.json["completed"]) == (code, 12)
    assert answer.err.removeprefix("results in r\n") == (f"{line}\n" if line else "")


def test_a_gate_on_an_unknown_number_is_met_before_the_run(cli: Cli, folder: Path) -> None:
    answer = cli("run", "t.jsonl", "--no-plots", "--out", "r", "--require", "slo_atainment>=1")
    assert (answer.code, answer.out, (folder / "r").exists()) == (2, "", False)
    (line,) = answer.err.splitlines()
    assert line.startswith("error: --require: no number called 'slo_atainment'")
    assert "close: slo_attainment" in line


@pytest.mark.parametrize("key", ["counters.aged", "load.backlog_left.chat", "run.run.seed"])
def test_what_only_the_run_can_tell_is_looked_up_after_it(cli: Cli, folder: Path, key: str) -> None:
    answer = cli("run", "t.jsonl", "--no-plots", "--out", "r", "--require", f"{key}<=0")
    assert (folder / "r" / "summary.json").exists()
    assert answer.code == (0 if key == "run.run.seed" else 2)


# -- one line, code 2 -----------------------------------------------------------------------------

SET = "--set"
BAD_SETTINGS: list[tuple[str, str]] = [
    ("kv_blocks=2", "--set 'kv_blocks=2': expected section.key=value"),
    ("run.kv_blocks", "--set 'run.kv_blocks': expected section.key=value"),
    ("=3", "expected section.key=value"),
    ("run..tp=3", "expected section.key=value"),
    (
        "runn.tp=3",
        "unknown (did you mean 'run'?); sections are: classes, memory, router, run, scheduler",
    ),
    ("run.kvblocks=2", "run.kvblocks: unknown (did you mean 'kv_blocks'?)"),
    ("run.kv_blocks=abc", "run.kv_blocks: expected an integer, got 'abc'"),
    ("run.kv_blocks=1.5", "run.kv_blocks: expected an integer, got 1.5"),
    ("run.kv_blocks=true", "run.kv_blocks: expected an integer, got True"),
    ("run.kv_blocks=1\nx=2", "run.kv_blocks: expected an integer, got '1\\nx=2'"),
    ("run.kv_blocks.b=3", "run.kv_blocks: expected an integer, got {'b': 3}"),
    ("run.kv_blocks=-1", "run.kv_blocks: expected an integer >= 0, got -1"),
    ("run.kv_blocks=" + "9" * 5000, "run.kv_blocks: expected an integer"),
    ("run.kv_blocks=" + "[" * 5000, "run.kv_blocks: expected an integer"),
    ("run.costs=3", "run.costs: expected a text, got 3"),
    ("run.spread=1", "run.spread: expected true or false, got 1"),
    ("run.host_memory_gib=inf", "run.host_memory_gib: expected a number <= "),
    ("run.host_step_ms=nan", "run.host_step_ms: expected a number >= 0, got nan"),
    ("run.gpu_memory_utilization=0", "run.gpu_memory_utilization: expected a number > 0, got 0"),
    ("run.gpu_memory_utilization=0.1", "needs 15.0 GiB of weights per GPU"),
    ("run.lag=2", "run.lag: expected an integer <= 1, got 2"),
    ("run.block_tokens=1000000", "run.block_tokens: expected an integer <= 16384, got 1000000"),
    (
        "run.costs=none",
        "costs='none': expected auto, roofline, calibrated, flexgen or a profile file",
    ),
    ("run.costs=t.jsonl", "t.jsonl: expected JSON"),
    ("scheduler.agin=true", "scheduler.agin: unknown (did you mean 'aging'?); rotating takes: "),
    ("scheduler.aging=yes", "scheduler.aging: expected true or false, got 'yes'"),
    (
        "scheduler.lengths=guess",
        "scheduler.lengths: expected one of 'histogram', 'none', 'oracle', got 'guess'",
    ),
    ("scheduler.max_num_seqs=-1", "scheduler.max_num_seqs: expected a number >= 0, got -1"),
    ("scheduler.watermark=nan", "scheduler.watermark: expected a number >= 0, got nan"),
    ("scheduler.length_scale=0", "scheduler.length_scale: expected above 0, got 0"),
    (
        "scheduler.length_scale=1e300",
        "scheduler.length_scale: expected above 0 and at most 1000, got 1e+300",
    ),
    ("scheduler.pace_margin=2", "scheduler.pace_margin: expected above 0 and at most 1, got 2"),
    ("scheduler.max_wait_s=0", "scheduler.max_wait_s: expected above 0, got 0"),
    ("scheduler.aged_share=1", "scheduler.aged_share: expected above 0 and below 1, got 1"),
    ("scheduler.max_num_batched_tokens=9", "max_num_batched_tokens: expected at least max_num_seq"),
    ("scheduler.name=x", "scheduler.name: unknown; rotating takes: "),
    ("memory.size=1", "memory.size: unknown; lru takes: "),
    ("classes.chat=3", "classes.chat: expected a table, got 3"),
    ("classes.chat.ttft=3", "classes.chat.ttft: expected a known key"),
    ("classes.chat.ttft_ms=soon", "classes.chat.ttft_ms: expected a number >= 0, got 'soon'"),
    ("classes.chat.delivery=odd", "classes.chat.delivery: expected one of 'strict', 'paced'"),
]


@pytest.mark.parametrize(("setting", "words"), BAD_SETTINGS, ids=[s[:40] for s, _ in BAD_SETTINGS])
def test_bad_settings(cli: Cli, folder: Path, setting: str, words: str) -> None:
    only_error(cli("run", "t.jsonl", SET, setting), 2, words)
    assert left_in(folder) == {"t.jsonl"}


BAD_OPTIONS: list[tuple[list[str], str]] = [
    (["--scheduler", "vlm"], "scheduler 'vlm': unknown (did you mean 'vllm'?)"),
    (["--scheduler", "VLLM"], "did you mean 'vllm'?"),
    (["--scheduler", ""], "scheduler '': unknown"),
    (["--scheduler", "nope.mod:Foo"], "cannot import: No module named 'nope'"),
    (["--scheduler", "..mod:Foo"], "scheduler '..mod:Foo': cannot import"),
    (["--scheduler", ":Foo"], "scheduler ':Foo': cannot import"),
    (["--scheduler", "broken_plugin:Foo"], "cannot import: invalid syntax"),
    (["--scheduler", "sim.run:Foo"], "has no attribute 'Foo'"),
    (["--scheduler", "json:dumps"], "expected a dataclass, got <function dumps"),
    (["--scheduler", "sim.run:SimResult"], "missing 6 required positional arguments"),
    (["--scheduler", "traces.workload:Workload"], "missing 2 required positional arguments"),
    (["--scheduler", "superinfer.costs:HostCost"], "superinfer.costs:HostCost': "),
    (["--scheduler", "superinfer.memory.lru:LruMemory"], "expected a scheduler with block_tokens"),
    (["--memory", "lur"], "memory 'lur': unknown (did you mean 'lru'?)"),
    (
        ["--memory", "slo_aware", SET, "memory.weights=none.npz"],
        "memory.weights: none.npz: no such file",
    ),
    (["--model", "lama-3.1-8b"], "unknown model 'lama-3.1-8b': no such file"),
    (["--model", "lama-3.1-8b"], "did you mean 'llama-3.1-8b'?"),
    (["--model", "."], "unknown model '.'"),
    (["--model", "t.jsonl"], "t.jsonl: expected JSON"),
    (["--model", "llama-3.1-70b"], "it fits on 2 GPUs"),
    (["--model", "llama-3.1-405b", "--device", "l40s"], "it fits on"),
    (["--device", "h10"], "run.device: unknown device 'h10'"),
    (["--device", "h10"], "did you mean 'h100'?"),
    (["--tp", "3"], "tp=3 does not divide the 32 attention heads of llama-3.1-8b"),
    (["--tp", "0"], "run.tp: expected an integer >= 1, got 0"),
    (["--tp", "-2"], "run.tp: expected an integer >= 1, got -2"),
    (["--tp", "9" * 30], "run.tp: expected an integer <= "),
    (["--tp", "two"], "Invalid value for '--tp'"),
    (["--seed", "-1"], "run.seed: expected an integer >= 0, got -1"),
    (["--lag", "2"], "Invalid value for '--lag'"),
    (["--limit", "0"], "Invalid value for '--limit'"),
    (["--limit"], "--limit"),
    (["--sheduler", "vllm"], "No such option: --sheduler (Possible options: "),
    (["more.jsonl"], "unexpected extra argument(s) (more.jsonl)"),
    (["--require", "slo"], "--require 'slo': expected a form like 'slo_attainment>=0.95'"),
    (["--require", "slo>=nan"], "--require 'slo>=nan': expected a form like"),
    (["--config", "none.toml"], "none.toml: cannot read: No such file"),
    (["--config", "."], "cannot read: Is a directory"),
    (["--config", "t.jsonl"], "t.jsonl: expected TOML: "),
    (["--classes", "none.toml"], "none.toml: expected a readable file"),
    (["--classes", "t.jsonl"], "t.jsonl: expected a TOML file"),
    (["--out", ""], "--out: expected the name of a result folder, got '.'"),
    (["--out", "/"], "--out: expected the name of a result folder, got '/'"),
    (["--out", "t.jsonl"], "--out: t.jsonl: expected a folder, got a file"),
    (["--out", "t.jsonl/r"], "--out: t.jsonl/r: cannot write here: Not a directory"),
    (["--out", "/proc/none/r"], "--out: /proc/none/r: cannot write here"),
    (["--out", "x" * 300], "File name too long"),
    (["--rate-scale", "1e-300"], "run.rate_scale: expected a number >= 1e-06"),
]


def test_the_short_form_of_the_output_and_its_folder(cli: Cli, folder: Path) -> None:
    assert cli("run", "t.jsonl", "-o", "new/here/r", "--no-plots").code == 0
    assert (folder / "new/here/r/summary.json").exists()
    two = ("--schedulers", "vllm,fcfs", "--workers", "1")
    assert cli("compare", "t.jsonl", *two, "-o", "other/c", "--no-plots").code == 0
    assert (folder / "other/c/comparison.json").exists()


@pytest.mark.parametrize("command", ["run", "compare", "sensitivity", "sweep", "tune", "plan"])
def test_a_folder_that_cannot_be_made_is_known_before_the_trace_is_read(
    cli: Cli, folder: Path, command: str
) -> None:
    (folder / "bad.jsonl").write_text("no trace")
    answer = cli(command, "bad.jsonl", "-o", "bad.jsonl/r", "--no-plots")
    only_error(answer, 2, "--out: bad.jsonl/r: cannot write here: Not a directory")


def test_equal_options_have_equal_words() -> None:
    """What several commands take is described alike, whichever of them is asked."""
    commands = vars(get_command(app))["commands"]
    shared = ("run", "compare", "suggest-slo", "sensitivity", "sweep", "tune", "plan")
    words: dict[str, set[object]] = {}
    for name in shared:
        for option in commands[name].params:
            said = (getattr(option, "help", None), option.metavar, tuple(option.opts))
            words.setdefault(option.name, set()).add(said)
    others = {name for name, said in words.items() if len(said) > 1}
    assert others == {"schedulers", "device", "tp", "out"}  # plan tries several devices and degrees


@pytest.mark.parametrize(
    ("options", "words"), BAD_OPTIONS, ids=[" ".join(o) for o, _ in BAD_OPTIONS]
)
def test_bad_options(cli: Cli, folder: Path, options: list[str], words: str) -> None:
    (folder / "broken_plugin.py").write_text("class Foo(:\n")
    only_error(cli("run", "t.jsonl", *options), 2, words)
    assert left_in(folder) <= {"t.jsonl", "broken_plugin.py", "__pycache__"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty.jsonl: expected at least one request, got an empty file"),
        ("{}\n", "empty.jsonl:1: timestamp: expected a number"),
        (TRACE.replace("chat", "chta"), "empty.jsonl:1: class: expected one of "),
        ("time,in,out\n", "empty.jsonl:1: expected a JSON object or TIMESTAMP"),
    ],
)
def test_bad_traces(cli: Cli, folder: Path, text: str, words: str) -> None:
    (folder / "empty.jsonl").write_text(text)
    only_error(cli("run", "empty.jsonl"), 2, words)
    assert not (folder / "runs").exists()


def test_missing_traces(cli: Cli) -> None:
    only_error(cli("run", "none.jsonl"), 2, "none.jsonl: expected a trace file, got no such file")
    only_error(cli("run", "."), 2, "expected a trace file, got a directory")
    for trace in ([], [""]):
        only_error(cli("run", *trace), 2, "TRACE: expected a trace file here or as run.trace")
    only_error(cli("run", "-", "--limit", "3", stdin=b""), 2, "<stdin>: expected at least one")


def test_a_trace_name_that_is_no_text(cli: Cli) -> None:
    only_error(cli("run", "caf\udce9.jsonl"), 2, "run.trace: expected UTF-8 text")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[run\n", "x.toml: expected TOML: "),
        ("[runn]\n", "x.toml: [runn]: unknown (did you mean 'run'?); sections are: "),
        ("run = 3\n", "x.toml: run: expected a table, got 3"),
        ("tp = 3\n", "x.toml: [tp]: unknown"),
        ("[run]\ntp = 'a'\n", "x.toml: run.tp: expected an integer, got 'a'"),
        ("[run]\ntpp = 1\n", "x.toml: run.tpp: unknown (did you mean 'tp'?)"),
        ("[run]\nscheduler = 'vlm'\n", "x.toml: scheduler 'vlm': unknown (did you mean 'vllm'?)"),
        (
            "[scheduler]\nmax_num_seq = 1\n",
            "x.toml: scheduler.max_num_seq: unknown (did you mean 'max_num_seqs'?)",
        ),
        ("[memory]\npreemption = 'x'\n", "x.toml: memory.preemption: expected one of 'recompute'"),
        ("[classes]\nchat = 3\n", "x.toml: classes.chat: expected a table, got 3"),
        ("[classes.chat]\nttft_ms = -1\n", "x.toml: classes.chat.ttft_ms: expected a number"),
    ],
)
def test_bad_configuration_files(cli: Cli, folder: Path, text: str, words: str) -> None:
    (folder / "x.toml").write_text(text)
    only_error(cli("run", "t.jsonl", "--config", "x.toml"), 2, words)
    only_error(cli("compare", "t.jsonl", "--config", "x.toml"), 2, words)


def test_a_configuration_that_is_no_text(cli: Cli, folder: Path) -> None:
    (folder / "x.toml").write_bytes(b"[run]\nmodel = '\xe9'\n")
    only_error(cli("run", "t.jsonl", "--config", "x.toml"), 2, "x.toml: expected TOML: ")


def test_a_bad_class_file(cli: Cli, folder: Path) -> None:
    (folder / "c.toml").write_text("[classes.mine]\nttft = 5\n")
    words = "c.toml: classes.mine.ttft: expected a known key"
    only_error(cli("run", "t.jsonl", "--classes", "c.toml"), 2, words)


def test_unknown_commands(cli: Cli) -> None:
    only_error(cli("rnu", "t.jsonl"), 2, "No such command 'rnu'")
    only_error(cli("traces", "stat"), 2, "No such command 'stat'")


@pytest.mark.parametrize("command", [[], ["traces"]])
def test_no_arguments_give_the_help(cli: Cli, command: list[str]) -> None:
    answer, asked = cli(*command), cli(*command, "--help")
    assert (answer.code, asked.code, answer.out) == (2, 0, "")
    assert answer.err == asked.out
    assert answer.err.startswith("Usage: superinfer-sim ")


@pytest.mark.parametrize("command", ["run", "compare"])
def test_help_names_every_option(cli: Cli, command: str) -> None:
    text = cli(command, "--help").out
    for option in ("--config", "--set", "--classes", "--no-prefix-caching", "--lag", "--out"):
        assert option in text
    assert "draws nothing at random" in " ".join(text.split())


def test_requests_that_nothing_serves_fail_the_run(cli: Cli, folder: Path) -> None:
    none = ("--scheduler", "harness:IdleScheduler", "--out", "r")
    only_error(cli("run", "t.jsonl", *none), 1, "12 requests can never run")
    assert left_in(folder) == {"t.jsonl"}


def test_a_result_that_cannot_be_written_is_still_shown(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from superinfer.lab import results

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "_write_files", full)
    answer = cli("run", "t.jsonl", "--json", "--out", "r")
    assert (answer.code, answer.json["completed"]) == (1, 12)
    assert answer.err == "error: cannot write r: No space left on device\n"
    assert left_in(folder) == {"t.jsonl"}


# -- compare --------------------------------------------------------------------------------------


def arms_of(answer: Answer) -> dict[str, Any]:
    """The summary of every arm, by name."""
    return {name: runs[0]["summary"] for name, runs in answer.json["arms"].items()}


def test_an_oracle_of_lengths_is_for_simulation(cli: Cli) -> None:
    lengths = ("--set", "scheduler.lengths=oracle", "--no-plots", "--json")
    assert cli("run", "t.jsonl", *lengths).json["completed"] == 12


def test_compare_runs_every_scheduler_on_one_workload(cli: Cli, folder: Path) -> None:
    answer = cli("compare", "t.jsonl", "--no-plots", "--json", "--out", "c")
    assert list(answer.json["arms"]) == ["vllm", "fcfs", "priority", "rotating"]
    assert left_in(folder / "c") == {"vllm", "fcfs", "priority", "rotating", "comparison.json"}
    for name, summary in arms_of(answer).items():
        assert (summary["completed"], summary["run"]["run"]["scheduler"]) == (12, name)
    again = cli("compare", "t.jsonl", "--out", "c", "--schedulers", "fcfs, priority")
    pages = {"compare.png", "report.html", "comparison.json"}
    assert left_in(folder / "c-2") == {"fcfs", "priority", *pages}
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
        ([SET, "scheduler.chunked=true"], "arm fcfs: scheduler.chunked: unknown"),
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


# -- processes ------------------------------------------------------------------------------------

SIGINT_PLUGIN = """
import signal
from dataclasses import dataclass
from superinfer.schedulers.fcfs import FcfsScheduler

@dataclass
class Interrupted(FcfsScheduler):
    def submit(self, seq, now):
        FcfsScheduler.submit(self, seq, now)
        if seq.request.index == 7:
            signal.raise_signal(signal.SIGINT)
"""


def test_an_interrupted_run_leaves_nothing(folder: Path) -> None:
    (folder / "sigint_plugin.py").write_text(SIGINT_PLUGIN)
    running = process("run", "t.jsonl", "--scheduler", "sigint_plugin:Interrupted", "--out", "r/s")
    answer = finished(running)
    assert answer == Answer(130, "", "interrupted\n")
    assert left_in(folder) <= {"t.jsonl", "sigint_plugin.py", "__pycache__"}


@pytest.mark.parametrize("module", ["sim.cli", "typer", "superinfer.lab.config", "sim.commands"])
def test_control_c_during_imports(module: str, folder: Path) -> None:
    """Of the command line itself and, later, of what a command needs."""
    program = (
        "import signal, sys, superinfer\n"
        "class Finder:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder)\n"
        "sys.argv = ['superinfer-sim', 'run', 't.jsonl', '--out', 'r']\n"
        "from sim.__main__ import main\n"
        "main()\n"
    )
    assert finished(python("-c", program)) == Answer(130, "", "interrupted\n")
    assert left_in(folder) == {"t.jsonl"}


def test_control_c_that_is_ignored_stays_so(folder: Path) -> None:
    program = (
        "import signal\n"
        "from sim.__main__ import main\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)\n"
    )
    assert finished(python("-c", program)).out.endswith("True\n")


def test_control_c_during_a_comparison(folder: Path) -> None:
    many = "".join(RECORD.format(at=i, prompt=300, answer=300, name="chat") for i in range(20_000))
    (folder / "many.jsonl").write_text(many)
    running = process("compare", "many.jsonl", "--no-plots", "--out", "c")
    assert running.stderr is not None
    assert running.stderr.readline().startswith(b"0 of 4 runs")
    time.sleep(0.2)
    running.send_signal(2)
    answer = finished(running)
    assert (answer.code, answer.out) == (130, "")
    assert answer.err.endswith("interrupted\n")
    assert left_in(folder) == {"t.jsonl", "many.jsonl"}


def test_a_reader_that_goes_away_is_no_failure(folder: Path) -> None:
    """The pipe is closed before anything is written to it; the gate still counts."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    gate = ("--require", "completed>12", "--no-plots", "--out", "r")
    commands = [("run", "t.jsonl", *gate), ("traces", "convert", "t.jsonl", "-o", "-")]
    running = [process(*command, stdout=write_end) for command in commands]
    os.close(write_end)
    gated, converted = [finished(each) for each in running]
    assert gated == Answer(3, "", "results in r\nFAIL: completed>12 (found 12)\n")
    assert converted == Answer(0, "", "wrote 12 requests to -\n")
    assert (folder / "r" / "summary.json").exists()


def test_a_full_disk_behind_standard_output(folder: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "wb") as full:
        answer = finished(process("run", "t.jsonl", "--no-plots", "--out", "r", stdout=full))
    assert (answer.code, answer.err) == (1, "results in r\nerror: No space left on device\n")
    assert (folder / "r" / "summary.json").exists()


def test_a_terminal_that_is_not_utf_8(folder: Path) -> None:
    (folder / "c.toml").write_text('[classes."größe"]\nttft_ms = 100\n', encoding="utf-8")
    (folder / "u.jsonl").write_text(TRACE.replace('"chat"', '"größe"'), encoding="utf-8")
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    options = ("--classes", "c.toml", "--no-plots", "--out", "r")
    answer = finished(process("run", "u.jsonl", *options, env=ascii_only))
    assert (answer.code, answer.err) == (0, "results in r\n")
    assert answer.out.isascii() and "gr\\xf6\\xdfe" in answer.out


def test_results_do_not_depend_on_the_process(folder: Path) -> None:
    (folder / "s.jsonl").write_bytes(
        b"".join((REPOSITORY / "traces/samples/mixed.jsonl").read_bytes().splitlines(True)[:150])
    )
    running = [
        process(
            *("run", "s.jsonl", "--scheduler", "priority", "--prefix-caching", "--seed", "3"),
            *("--no-plots", "--out", f"r{seed}"),
            env={"PYTHONHASHSEED": str(seed)},
        )
        for seed in (1, 2)
    ]
    assert [finished(each).code for each in running] == [0, 0]
    for name in ("requests.parquet", "timeline.parquet", "itl.parquet", "config.toml"):
        assert (folder / "r1" / name).read_bytes() == (folder / "r2" / name).read_bytes()


def test_help_imports_nothing_heavy() -> None:
    modules = imported("--help")
    assert not modules & {"numpy", "pandas", "matplotlib", "pyarrow", "simpy", "msgspec"}
    assert not modules & {"sim.commands", "superinfer.engine", "traces.readers"}


def test_a_run_without_plots_imports_neither_pandas_nor_matplotlib() -> None:
    modules = imported("run", "t.jsonl", "--no-plots", "--out", "r")
    assert "pyarrow" in modules
    assert not modules & {"pandas", "matplotlib", "scipy", "IPython"}


def imported(*arguments: str) -> set[str]:
    """Modules that a command has imported when it ends."""
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('modules', *sys.modules, file=sys.stderr))\n"
        "from sim.cli import main\n"
        f"sys.argv = ['superinfer-sim', *{arguments!r}]\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--prefix-caching",), "run.prefix_caching: no request has hash_ids"),
        (("--concurrency", "2", "--rate-scale", "3"), "run.rate_scale: not used with run.conc"),
        (("--router", "slo_aware"), "run.router: slo_aware is not used with one replica"),
        (("--device", "l40s"), "no profile of llama-3.1-8b on l40s at tp 1: step times are nom"),
    ],
)
def test_what_changes_nothing_or_less_than_it_seems_is_said(
    cli: Cli, options: tuple[str, ...], words: str
) -> None:
    answer = cli("run", "t.jsonl", "--no-plots", *options)
    assert answer.code == 0
    assert f"\nwarning: {words}" in f"\n{answer.err}"
    assert words not in cli("run", "t.jsonl", "--no-plots").err


def test_why_requests_were_turned_away_is_said(cli: Cli) -> None:
    answer = cli("run", "t.jsonl", "--no-plots", "--scheduler", "fcfs", "--set", "run.kv_blocks=2")
    assert "by rule: exceeds_kv_capacity 12\n" in answer.err
    assert "by rule" not in cli("run", "t.jsonl", "--no-plots").err


def test_who_asks_for_nominal_figures_is_not_warned_of_them(cli: Cli) -> None:
    nominal = ("--device", "l40s", "--set", "run.costs=roofline")
    assert "nominal" not in cli("run", "t.jsonl", "--no-plots", *nominal).err


def test_a_comparison_names_the_arms_without_a_profile(cli: Cli, folder: Path) -> None:
    (folder / "other.toml").write_text('[run]\nscheduler = "vllm"\ndevice = "l40s"\n')
    err = cli("compare", "t.jsonl", "--schedulers", "vllm", "--arm", "other.toml", "--no-plots").err
    assert [line for line in err.splitlines() if "no profile" in line] == [
        "warning: arm other: no profile of llama-3.1-8b on l40s at tp 1: step times are nominal "
        "figures, and no real step is as fast"
    ]
