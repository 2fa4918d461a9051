"""Steady-state latencies against measured ones: what was reached is the ceiling."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.accuracy import steady
from experiments.accuracy.__main__ import main as part
from experiments.accuracy.steady import Found, Profiles, badness, explain
from experiments.accuracy.steady_page import page, write_scatter
from experiments.accuracy.steady_points import ROUNDS, Point, read_points
from superinfer.errors import InputError

CEILINGS = {
    "all": (0.035, 0.095),
    "qwen3-32b, h100 TP 2": (0.032, 0.255),
    "qwen3-32b, h100 TP 4": (0.031, 0.066),
    "qwen3-32b, h100 TP 8": (0.048, 0.058),
    "qwen3-32b FP8, h100 TP 1": (0.096, 0.90),
    "qwen3-32b FP8, h100 TP 2": (0.37, 1.92),
    "qwen3-32b FP8, h100 TP 8": (0.32, 0.026),
    "llama-3.1-70b FP8, h200 TP 1": (0.052, 0.145),
    "llama-3.1-70b FP8, h200 TP 2": (0.023, 0.096),
    "llama-3.1-70b FP8, h200 TP 4": (0.026, 0.076),
    "llama-3.1-70b FP8, h200 TP 8": (0.054, 0.122),
    "qwen3-32b, h100, 1024/128": (0.057, 0.077),
    "qwen3-32b, h100, 1024/512": (0.035, 0.049),
    "qwen3-32b, h100, 1024/1024": (0.042, 0.093),
    "qwen3-32b, h100, 4096/128": (0.023, 0.110),
    "qwen3-32b, h100, 4096/512": (0.029, 0.150),
    "qwen3-32b, h100, 4096/1024": (0.040, 0.136),
    "qwen3-32b FP8, h100, 4000/1000": (0.32, 0.90),
    "llama-3.1-70b FP8, h200, 1024/8192": (0.048, 0.109),
    "llama-3.1-70b FP8, h200, 1024/1024": (0.039, 0.085),
    "llama-3.1-70b FP8, h200, 8192/1024": (0.029, 0.122),
}
"""Median absolute errors of TPOT and TTFT, of all 153 points, of each group and of each shape
(tokens of prompt and answer): what was reached (docs/accuracy-steady.md), a few per cent more."""

POINT = Point(
    name="p",
    model="qwen3-32b",
    device="h100",
    tp=4,
    weight_dtype="",
    kv_dtype="",
    prompt_tokens=1000,
    answer_tokens=40,
    concurrency=3,
    ttft_ms=100.0,
    tpot_ms=10.0,
    max_num_batched_tokens=2048,
    max_num_seqs=1024,
    lag=0,
    shortest=0.8,
)


@pytest.fixture
def points_of(data_dir: Path) -> list[Point]:
    """The measured points."""
    if not (data_dir / "validation/silicon").is_dir():
        pytest.skip(f"needs the measured points: {data_dir} lacks validation/silicon")
    return read_points(data_dir)


@pytest.mark.slow
def test_the_median_errors_stay_where_they_are(points_of: list[Point], data_dir: Path) -> None:
    assert len(points_of) == 153
    errors = steady.steady_errors(data_dir)
    assert errors.keys() == CEILINGS.keys()
    over = {
        name: (found["tpot"], found["ttft"])
        for name, found in errors.items()
        if found["tpot"] > CEILINGS[name][0] or found["ttft"] > CEILINGS[name][1]
    }
    assert not over


def test_the_ceilings_are_close_to_what_was_recorded() -> None:
    """Else they hold nothing: each is at most a tenth above, or 0.4 points."""
    recorded = json.loads((steady.RESULTS / "summary.json").read_text(encoding="utf-8"))
    errors = {**recorded["median_errors"], **recorded["by_shape"]}
    for name, ceilings in CEILINGS.items():
        for metric, ceiling in zip(("tpot", "ttft"), ceilings, strict=True):
            reached = errors[name][metric]
            assert reached <= ceiling <= max(1.1 * reached, reached + 0.004), (name, metric)


def test_every_point_says_how_it_was_measured(points_of: list[Point]) -> None:
    first = points_of[0]
    assert (first.model, first.device, first.lag, first.shortest) == ("qwen3-32b", "h100", 0, 1.0)
    assert first.max_num_batched_tokens == first.concurrency + first.prompt_tokens + 1500
    llama = [point for point in points_of if point.device == "h200"]
    assert {point.kv_dtype for point in llama} == {"fp8"} and len(llama) == 60
    deployed = [point for point in points_of if point.device == "h100" and point.weight_dtype]
    assert sorted(point.concurrency for point in deployed) == [3, 12, 144]


def test_clients_send_their_turns_one_after_the_other() -> None:
    workload = POINT.workload()
    assert len(workload.requests) == ROUNDS * POINT.concurrency == len(workload.output_tokens)
    firsts = [request for request in workload.requests if request.delay_s is None]
    assert len(firsts) == 3
    assert [request.index for request in workload.requests] == list(range(30))
    times = [request.arrival_s for request in workload.requests]
    assert times == sorted(times)
    assert all(800 <= request.prompt_tokens <= 1000 for request in workload.requests)
    assert (
        POINT.workload(1).output_tokens != workload.output_tokens == POINT.workload().output_tokens
    )


def test_a_closed_loop_is_simulated(tmp_path: Path) -> None:
    shipped = Path(steady.__file__).parents[2] / "superinfer/costs/profiles"
    llama = replace(POINT, model="llama-3.1-70b")
    found = steady.simulate(llama, shipped / "h100_llama-3.1-70b_tp4.json")
    more_ms = 3.0
    step_ms = steady.HOST_STEP_MS["h100"] + more_ms
    slower = steady.simulate(llama, shipped / "h100_llama-3.1-70b_tp4.json", step_ms)
    assert 15.0 < found.tpot_ms < 40.0 < found.ttft_ms
    # Three milliseconds more host time come on top of every step, nothing is scheduled ahead.
    assert slower.tpot_ms - found.tpot_ms == pytest.approx(more_ms, abs=0.3)
    assert (found.preemptions, found.extrapolated_share) == (0, 0.0)
    assert 0.0 < found.later_ttft_ms < found.ttft_ms  # the first ones wait for each other


def test_the_cause_is_what_brings_the_point_closest(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Found(100.0, 12.0, 90.0, 0, 0.0, ())
    others = {
        "fast": Found(90.0, 10.2, 90.0, 0, 0.0, ()),
        "slow": Found(100.0, 13.0, 90.0, 0, 0.0, ()),
    }
    monkeypatch.setattr(steady, "alternatives", lambda *_: others)
    told = explain(POINT, found, Profiles(Path(), Path()))
    assert (told["metric"], told["closest"]) == ("tpot", "fast")
    assert told["closest_error"] == pytest.approx(0.02)
    assert badness(POINT, found) == pytest.approx(0.2 / 0.05)
    monkeypatch.setattr(steady, "alternatives", lambda *_: {"slow": others["slow"]})
    assert explain(POINT, found, Profiles(Path(), Path()))["closest"] is None


def test_the_page_and_the_picture(tmp_path: Path) -> None:
    errors = {"tpot": 0.02, "ttft": 0.03, "tpot_bias": -0.01, "ttft_bias": 0.0, "points": 1}
    simulated = {"ttft_ms": 103.0, "tpot_ms": 10.2}
    row = {"name": "p", "group": "g", "tpot_ms": 10.0, "ttft_ms": 100.0, "simulated": simulated}
    worst = {"name": "p", "metric": "tpot", "error": 0.02, "preemptions": 0}
    summary = {
        "made_by": {"command": "c", "versions": {"a": "1"}, "source": "s"},
        "host_step_ms": {"h100": 2.0},
        "median_errors": {"all": errors, "g": errors},
        "by_shape": {"g, 1024/128": errors},
        "worst": [worst | {"closest": None, "closest_error": None}],
        "points": [row],
    }
    text = page(summary)
    assert "TPOT 2.0%, TTFT 3.0%" in text and "**Simulated**" in text
    assert "| g, 1024/128 | 1 | 2.0 % | -1.0 % | 3.0 % | +0.0 % |" in text
    assert "| p | 10 | 10.2 | +2.0% | 100 | 103 | +3.0% |" in text
    assert "| p | TPOT | +2.0% | 0 | nothing tried | - |" in text
    write_scatter(summary, tmp_path / "scatter.png")
    assert (tmp_path / "scatter.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot read: No such file"),
        ("id,batch_size\n", "expected rows, found none"),
        ("model_path,precision\nQwen/Qwen3-32B,\n", "csv:2: expected a measured point: 'isl'"),
    ],
)
def test_a_bad_file_of_points_is_named(tmp_path: Path, text: str | None, words: str) -> None:
    folder = tmp_path / "validation/silicon"
    folder.mkdir(parents=True)
    if text is not None:
        (folder / "silicon_subset.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        read_points(tmp_path)


def test_the_parts_are_called_by_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert part(["nothing"]) == 2
    assert "steady" in capsys.readouterr().err
    assert part(["steady", "--data", str(tmp_path)]) == 2
    assert "silicon_subset.csv: cannot read" in capsys.readouterr().err
    called: list[Callable[..., object] | list[str]] = []
    monkeypatch.setattr(steady, "main", lambda arguments: called.append(arguments) or 3)
    assert part(["steady", "--calibrate"]) == 3
    assert called == [["--calibrate"]]
