"""What `superinfer-sim run` gives, and what it says beside."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import Cli
from short_trace import CLASSES, RECORD, TRACE, left_in, only_error

from superinfer.costs import list_profiles

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
def folder(short_trace_folder: Path) -> Path:
    return short_trace_folder


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
    assert answer.json["sim_requests_per_wall_s"] == 12 / answer.json["wall_s"]


PROFILE = next(each.path for each in list_profiles() if each[:2] == ("a100-80g", "llama-3.1-8b"))


@pytest.mark.parametrize(
    ("options", "profile"),
    [
        ((), PROFILE),
        (("--set", "run.replicas=2", "--set", f"run.costs={PROFILE}"), PROFILE),
        (("--scheduler", "flexgen"), PROFILE),
        (("--set", "run.costs=roofline"), None),
    ],
)
def test_the_profile_behind_a_result_can_be_told(
    cli: Cli, folder: Path, options: tuple[str, ...], profile: Path | None
) -> None:
    summary = cli("run", "t.jsonl", "--no-plots", "--json", "--out", "r", *options).json
    expected = hashlib.sha256(profile.read_bytes()).hexdigest() if profile else None
    assert summary["run"]["profile_sha256"] == expected
    made_by = tomllib.loads((folder / "r" / "config.toml").read_text())["made_by"]
    assert made_by.get("profile_sha256") == expected
    assert {"python", "superinfer"} <= made_by.keys()
    again = cli("run", "--config", "r/config.toml", "--no-plots", "--json", "--out", "again")
    assert again.json["run"] == summary["run"]


def test_a_profile_of_a_later_calibration_is_read_with_one_warning(cli: Cli, folder: Path) -> None:
    data = json.loads(PROFILE.read_text())
    data["kernels"]["warp"] = {"axes": {}, "seconds": None}
    data["host"]["later_s"] = 1.0
    data["links"]["both"] = {}
    (folder / "p.json").write_text(json.dumps(data))
    common = ("run", "t.jsonl", "--no-plots", "--json")
    plain = cli(*common, "--out", "a")
    later = cli(*common, "--out", "b", "--set", "run.costs=p.json")
    warning = "warning: p.json: ignored as unknown: kernels.warp, host.later_s\n"
    assert later.err == f"{warning}results in b\n"
    assert later.json["classes"] == plain.json["classes"]
    shown = cli("profiles", "show", "p.json", "--json")
    assert (shown.code, shown.err) == (0, warning)


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


def test_an_oracle_of_lengths_is_for_simulation(cli: Cli) -> None:
    lengths = ("--set", "scheduler.lengths=oracle", "--no-plots", "--json")
    assert cli("run", "t.jsonl", *lengths).json["completed"] == 12


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


# -- what is said beside the result ------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--prefix-caching",), "run.prefix_caching: no request has hash_ids"),
        (("--concurrency", "2", "--rate-scale", "3"), "run.rate_scale: not used with run.conc"),
        (("--concurrency", "2", "--set", "run.burstiness=0"), "run.burstiness: not used with"),
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
