"""`superinfer-sim sweep`: points, peak goodput, files, and going on."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from inline_engine import Inline
from killed_runs import COUNTING, none_works, process, stored, until

Call = Callable[..., tuple[int, str, list[str]]]
PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def folder(work_folder: Path, chat_trace: Callable[[int], str]) -> Path:
    (work_folder / "t.jsonl").write_text(chat_trace(250))
    return work_folder


@pytest.fixture
def call(command_lines: Call) -> Call:
    return partial(command_lines, "sweep")


def told(call: Call, *arguments: str) -> dict[str, Any]:
    code, out, err = call(*arguments, "--json")
    assert code == 0, err
    answer: dict[str, Any] = json.loads(out)
    return answer


# -- warnings ---------------------------------------------------------------------------------


def test_a_setting_of_a_class_that_nobody_is_of(
    call: Call, command_lines: Call, inline: Inline, folder: Path
) -> None:
    """One line says so; classes of one's own have from the default one what they do not say."""
    vllm = ("--schedulers", "vllm", "-o")
    video = "warning: classes.video.ttft_ms: no request is of class video; the classes here are "
    err = call("t.jsonl", "--over", "classes.video.ttft_ms=10,20", *vllm, "a")[2]
    assert [line for line in err if "no request is of" in line] == [video + "chat"]
    err = call("t.jsonl", "--over", "classes.chat.ttft_ms=10,20", *vllm, "b")[2]
    assert not [line for line in err if "no request is of" in line]
    (folder / "space.toml").write_text("[classes.video]\nttft_ms = { low = 10, high = 20 }\n")
    wish = ("t.jsonl", "--scheduler", "vllm", "--space", "space.toml", "--trials", "1", "-o", "c")
    code, _, err = command_lines("tune", *wish)
    assert code == 0, err
    assert [line for line in err if "no request is of" in line] == [video + "chat"]
    own = (folder / "t.jsonl").read_text().replace('"chat"', '"mine"')
    (folder / "own.jsonl").write_text(own)
    given = ("--set", "classes.mine.priority=1", "--over", "classes.default.ttft_ms=10,20")
    err = call("own.jsonl", *given, *vllm, "d")[2]
    assert not [line for line in err if "no request is of" in line]


def test_a_setting_that_an_axis_replaces(call: Call, inline: Inline, folder: Path) -> None:
    for name, rate in (("slow", 0.5), ("fast", 3.0)):
        (folder / f"{name}.toml").write_text(f"[run]\nrate_scale = {rate}\n")
    given = ("t.jsonl", "--limit", "20", "--over", "rate=1,2", "--no-plots")
    line = "note: run.rate_scale {} is not used: --over rate says what is tried"
    arms = ("--schedulers", "vllm", "--arm", "slow.toml", "--config", "fast.toml")
    err = call(*given, *arms, "-o", "a")[2]
    told = [each for each in err if "not used" in each]
    assert told == [line.format("3.0"), line.format("0.5")]
    err = call(*given, "--schedulers", "vllm", "--concurrency", "2", "--lag", "1", "-o", "b")[2]
    assert not [each for each in err if "--over" in each]


def test_blocks_of_other_sizes_are_told_once(call: Call, inline: Inline) -> None:
    wish = ("t.jsonl", "--over", "kv_blocks=90,120", "--schedulers", "vllm,fcfs", "-o")
    err = call(*wish, "a")[2]
    assert [line for line in err if "same memory" in line] == [
        "warning: run.kv_blocks: 90 blocks are not the same memory (tokens: vllm 1,440; "
        "fcfs 2,880): run.block_tokens gives all arms the same"
    ]
    err = call(*wish, "b", "--set", "run.block_tokens=16")[2]
    assert not [line for line in err if "same memory" in line]


# -- outcomes -------------------------------------------------------------------------------------


def test_a_sweep_over_the_rate(call: Call, inline: Inline, folder: Path) -> None:
    given = ("t.jsonl", "--over", "rate=0.5,1,8", "--schedulers", "vllm,fcfs", "-o", "s")
    found = told(call, *given)
    assert found == json.loads((folder / "s/sweep.json").read_text())
    assert [(p["scheduler"], p["at"]["rate"]) for p in found["points"]] == [
        (arm, rate) for arm in ("vllm", "fcfs") for rate in (0.5, 1, 8)
    ]
    shares = [point["slo_attainment"] for point in found["points"]]
    assert shares[0] == 1.0 and shares[2] < 0.95, "eight times the rate is too much"
    peak = found["peaks"][0]
    assert (peak["rate"], peak["bracketed"], peak["kept_above"]) == (1, True, [])
    assert peak["request_goodput"] == found["points"][1]["request_goodput"]
    for point in found["points"]:
        (run,) = point["runs"]
        summary = json.loads((folder / "s" / run["folder"] / "summary.json").read_text())
        assert summary["run"]["run"]["rate_scale"] == point["at"]["rate"]
        assert summary["p99_ttft_ms"] == point["p99_ttft_ms"]
    rows = pq.read_table(folder / "s/sweep.parquet").to_pylist()
    assert [row["rate"] for row in rows] == [0.5, 1, 8] * 2
    assert [row["slo_attainment"] for row in rows] == shares
    assert (folder / "s/sweep-rate.png").read_bytes().startswith(PNG)


def test_the_table_and_the_peak(call: Call, inline: Inline) -> None:
    code, out, err = call("t.jsonl", "--over", "rate=1,8", "--schedulers", "fcfs", "-o", "s")
    assert (code, err[-1]) == (0, "sweep in s")
    rows = [line.split() for line in out.splitlines() if " fcfs " in line]
    assert [row[0] for row in rows] == ["1", "8", "fcfs"]
    assert rows[2][1] == "1" and "Peak goodput" in out and "Simulated." in out


def test_a_sweep_runs_only_what_is_new(call: Call, inline: Inline) -> None:
    given = ("t.jsonl", "--schedulers", "fcfs", "-o", "s", "--no-plots")
    first = told(call, *given, "--over", "rate=1,2")
    assert len(inline.tasks) == 2
    assert told(call, *given, "--over", "rate=1,2") == first and len(inline.tasks) == 2
    code, _, err = call(*given, "--over", "rate=1:3:1", "--over", "slo=1,2")
    assert code == 0 and "2 of 6 runs were there before" in err
    assert len(inline.tasks) == 6


def test_refining_closes_in_on_the_limit(call: Call, inline: Inline) -> None:
    given = ("t.jsonl", "--schedulers", "fcfs", "--over", "rate=1,8", "--refine", "5", "-o", "s")
    found = told(call, *given)
    (peak,) = found["peaks"]
    rates = sorted(point["at"]["rate"] for point in found["points"])
    above = min(rate for rate in rates if rate > peak["rate"])
    assert 1 < peak["rate"] < 8 and above / peak["rate"] <= 1.05
    assert found["axes"][0]["values"] == [1, 8]
    assert told(call, *given) == found and len(inline.tasks) == len(rates)


def test_every_short_axis_reaches_its_setting(call: Call, inline: Inline, folder: Path) -> None:
    axes = {"slo": "0.01", "burstiness": "0", "kv_blocks": "2000", "link": "7", "run.lag": "1"}
    over = [part for name, value in axes.items() for part in ("--over", f"{name}={value}")]
    found = told(call, "t.jsonl", *over, "--schedulers", "vllm", "-o", "s")
    (point,) = found["points"]
    config = json.loads((folder / "s" / point["runs"][0]["folder"] / "summary.json").read_text())
    run = config["run"]["run"]
    assert (run["slo_scale"], run["burstiness"], run["kv_blocks"]) == (0.01, 0, 2000)
    assert (run["host_link_gb_per_s"], run["lag"]) == (7, 1)
    assert point["slo_attainment"] == 0.0, "nobody answers in a hundredth of the time"
    assert found["peaks"] == []


def test_a_setting_of_the_scheduler_and_words(call: Call, inline: Inline, folder: Path) -> None:
    over = ("--over", "scheduler.preemption=recompute,swap", "--over", "kv_blocks=200,2000")
    found = told(call, "t.jsonl", *over, "--schedulers", "vllm", "-o", "s")
    assert [tuple(point["at"].values()) for point in found["points"]] == [
        (word, blocks) for word in ("recompute", "swap") for blocks in (200, 2000)
    ]
    pictures = {path.name for path in (folder / "s").glob("*.png")}
    assert pictures == {"sweep-scheduler.preemption.png", "sweep-kv_blocks.png"}


def test_seeds_draw_the_workload_again(call: Call, inline: Inline) -> None:
    given = ("--over", "rate=1,2", "--schedulers", "fcfs", "--seeds", "2", "-o", "s")
    found = told(call, "mixed", "--limit", "20", *given)
    for point in found["points"]:
        one, other = point["runs"]
        assert [one["seed"], other["seed"]] == [0, 1]
        assert point["request_goodput"] == pytest.approx(
            (one["request_goodput"] + other["request_goodput"]) / 2
        )
        assert one["p99_ttft_ms"] != other["p99_ttft_ms"]
    _, _, err = call("mixed", "--limit", "20", *given, "--no-plots")
    assert "4 of 4 runs were there before" in err


def test_without_rate_or_targets_a_note_says_so(call: Call, inline: Inline) -> None:
    _, _, err = call("t.jsonl", "--over", "link=10,20", "--schedulers", "fcfs", "-o", "a")
    assert err[-1] == "note: no peak goodput without rate among the axes (--over rate=...)"
    _, _, err = call("t.jsonl", "--schedulers", "fcfs", "-o", "b", "--without-slo")
    assert err[-1] == "note: no peak goodput: no request has a target"


def test_a_run_that_fails_is_told_and_others_go_on(call: Call, inline: Inline) -> None:
    code, out, err = call(
        *("t.jsonl", "--over", "rate=1,2", "--schedulers", "fcfs,harness:IdleScheduler"),
        *("-o", "s", "--json"),
    )
    assert code == 1
    found = json.loads(out)
    assert {point["scheduler"] for point in found["points"]} == {"fcfs"}
    assert len(found["failed"]) == 2
    assert "harness:IdleScheduler at rate=1: scheduler 'harness:IdleScheduler' (" in err[-2]
    assert "harness.py): 40 requests can never run" in err[-2]


def test_no_table_where_nothing_came_to_its_end(call: Call, inline: Inline) -> None:
    """One line says why, before the failures themselves."""
    given = ("t.jsonl", "--over", "rate=1,2", "-o", "s")
    code, out, err = call(*given, "--schedulers", "harness:IdleScheduler")
    assert (code, out) == (1, "")
    assert err[-3] == "note: nothing to show: no run came to its end"
    assert all("harness:IdleScheduler at rate=" in line for line in err[-2:])


def test_after_ctrl_c_the_rest_is_run(
    call: Call, inline: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("t.jsonl", "--over", "rate=1,2,3", "--schedulers", "fcfs", "-o", "s")
    inline.dies_at = 2
    code, _, err = call(*given)
    assert (code, err[-1]) == (130, "interrupted")
    assert err[-2] == "what has been run is kept: the same command with --out s goes on from there"
    inline.dies_at = -1
    assert len(told(call, *given)["points"]) == 3 and len(inline.tasks) == 3


def test_ctrl_c_before_any_run_leaves_nothing(call: Call, inline: Inline, folder: Path) -> None:
    before = set(folder.iterdir())
    inline.dies_at = 0
    code, _, err = call("t.jsonl", "--over", "rate=1,2", "--schedulers", "fcfs", "-o", "s")
    assert (code, err[-1]) == (130, "interrupted") and not any("kept" in line for line in err)
    assert set(folder.iterdir()) == before


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--over", "rte=1"), "unknown axis 'rte' (did you mean 'rate'?)"),
        (("--over", "rate=1:2:0"), "expected from <= to and a step > 0"),
        (("--over", "rate=0"), "vllm at rate=0: run.rate_scale: expected a number >= 1e-06"),
        (("--rate-scale", "nan"), "run.rate_scale: expected a number >= 1e-06, got nan"),
        (("--rate-scale", "inf"), "run.rate_scale: expected a number <= 1000000, got inf"),
        (
            ("--rate-scale", "2"),
            "--rate-scale: expected none: rate is an axis (--over=rate=0.5:1.5:0.25 unless given)",
        ),
        (
            ("--over", "rate=1,2", "--rate-scale", "2"),
            "--rate-scale: expected none: rate is an axis (--over), which gives the values",
        ),
        (("--over", "run.lag=0,1", "--lag", "1"), "--lag: expected none: run.lag is an axis"),
        (("--over", "run.duration_s=5", "--duration", "9"), "--duration: expected none"),
        (
            ("--over", "scheduler.max_num_seqs=4", "--set", "scheduler.max_num_seqs = 8"),
            "--set scheduler.max_num_seqs: expected none: scheduler.max_num_seqs is an axis",
        ),
        (("--over", "run.trace=t.jsonl"), "TRACE: expected none: run.trace is an axis"),
        (("--over", "kv_blocks=1.5"), "run.kv_blocks: expected an integer"),
        (("--over", "run.kvblocks=1"), "run.kvblocks: unknown (did you mean 'kv_blocks'?)"),
        (("--over", "scheduler.max_seqs=1"), "scheduler.max_seqs: unknown"),
        (("--over", "run.scheduler=vllm"), "expected schedulers as --schedulers"),
        (("--over", "run.seed=1,2", "--seeds", "2"), "--over run.seed: --seeds replaces it"),
        (("--over", "link=9", "--refine", "5"), "--refine: expected the rate among the axes"),
        (("--schedulers", "vlm"), "did you mean 'vllm'?"),
        (("--schedulers", "vllm,vllm"), "sweep: expected different names"),
        (("--schedulers", ","), "expected one or more --schedulers or --arm, got none"),
        (("--seeds", "2"), "t.jsonl is the same for every seed"),
        (("--engine", "dask"), "--engine dask: expected one of processes, ray"),
        (("--address", "auto"), "--address auto: expected --engine ray"),
        (("-o", "full"), "--out: expected a new folder, or one to go on with: full"),
    ],
)
def test_mistakes_are_one_line(
    call: Call, folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    (folder / "full").mkdir()
    (folder / "full/something").touch()
    code, out, err = call("t.jsonl", "--schedulers", "vllm", *arguments)
    assert (code, out) == (2, "")
    assert len(err) == 1 and err[0].startswith("error: ") and message in err[0]
    assert not (folder / "runs").exists()


# -- killed ---------------------------------------------------------------------------------------


@pytest.fixture
def killed_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (folder / "counting.py").write_text(COUNTING)
    monkeypatch.setenv("COUNTING_LOG", str(folder / "log"))
    yield folder


def begun(folder: Path) -> int:
    """Simulations that were begun."""
    log = folder / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_a_killed_sweep_goes_on_and_runs_nothing_twice(killed_folder: Path, engine: str) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    given = (
        *("t.jsonl", "--schedulers", "counting:Counting", "--over", "rate=1:10:1"),
        *("--set", "scheduler.pause_s=0.4", "--workers", "2", "--engine", engine, "--json"),
    )
    running = process("sweep", *given, "-o", "s")
    until(lambda: len(stored(killed_folder / "s")) >= 3, running)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    until(lambda: none_works(killed_folder / "log"))
    kept, started = stored(killed_folder / "s"), begun(killed_folder)
    assert 3 <= len(kept) < 10 and started <= len(kept) + 2, "two at a time"
    again = process("sweep", *given, "-o", "s")
    out, err = again.communicate()
    assert again.returncode == 0, err
    found = stored(killed_folder / "s")
    assert {key: found[key] for key in kept} == kept, "what was there is as it was"
    assert len(found) == 10
    assert begun(killed_folder) == started + 10 - len(kept), "nothing ran twice"
    assert f"{len(kept)} of 10 runs were there before" in err
    whole, _ = process("sweep", *given, "-o", "w").communicate()
    assert out == whole, "not a byte tells that it was killed"
    assert Counter(point["at"]["rate"] for point in json.loads(out)["points"]).total() == 10
