"""Recorded runs: clocks, states and settings of a small one that is made up here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.accuracy import steps
from experiments.accuracy.bench_run import BenchRun, read_run, states_at
from experiments.accuracy.compare import compare, recorded, run_config
from experiments.accuracy.serving_page import tables
from superinfer.costs import StepCost, build_cost
from superinfer.errors import InputError

WALL_S, ENGINE_S = 1_700_000_000.0, 5_000.0
PROMPTS, ANSWERS = (600, 300, 900), (40, 30, 20)
ARRIVALS = (0.0, 0.4, 0.9)
QUEUED = (0.0, 0.41, 0.92)
"""The first is taken in at once."""


def write_run(
    root: Path,
    cost: StepCost,
    *,
    gap_s: float = 0.0,
    answers: tuple[int, ...] = ANSWERS,
    arrivals: tuple[float, ...] = ARRIVALS,
) -> tuple[Path, Path]:
    """Three requests that come one by one to a machine that gives exactly `cost` and `gap_s`."""
    folder, workload = root / "RTXPRO6000" / "Tiny", root / "workload.jsonl"
    (folder / "vllm").mkdir(parents=True)
    (folder / "validation").mkdir()
    with workload.open("w") as file:
        for tokens, answer, at_s in zip(PROMPTS, answers, arrivals, strict=True):
            record = {"input_toks": tokens, "output_toks": answer, "arrival_time_ns": 1e9 * at_s}
            file.write(json.dumps(record) + "\n")
    with (folder / "vllm" / "requests.jsonl").open("w") as file:
        for tokens, answer, at_s, queued_s in zip(PROMPTS, answers, arrivals, QUEUED, strict=True):
            stamps = {"queued_ts": ENGINE_S + queued_s, "scheduled_ts": ENGINE_S + queued_s}
            stamps |= {"first_token_ts": ENGINE_S + queued_s + 0.05 + gap_s}
            stamps |= {"last_token_ts": ENGINE_S + queued_s + 2.0}
            record = {"arrival_time": WALL_S + at_s, "input_toks": tokens, "output_toks": answer}
            file.write(json.dumps(record | stamps) + "\n")
    kwargs = {"max_num_seqs": 8, "max_num_batched_tokens": 2048, "tensor_parallel_size": 1}
    meta = {"model": "meta-llama/Llama-3.1-8B", "engine_kwargs": kwargs | {"max_model_len": None}}
    (folder / "vllm" / "meta.json").write_text(json.dumps(meta))
    series = "t,running,waiting\n1.0,2,0\n2.0,3,0\n3.0,1,0\n4.0,0,0\n"
    (folder / "vllm" / "timeseries.csv").write_text(series)
    summary = "Metric vLLM Sim Diff%\nTTFT Mean  7097.2  6815.7  -4.0%\n"
    (folder / "validation" / "summary.txt").write_text(summary)
    return folder, workload


@pytest.fixture(scope="module")
def cost() -> StepCost:
    return build_cost("llama-3.1-8b", "rtxpro6000", 1, "calibrated")


@pytest.fixture
def run(tmp_path: Path, cost: StepCost) -> BenchRun:
    return read_run(*write_run(tmp_path, cost))


def test_both_clocks_begin_with_the_first_arrival(run: BenchRun) -> None:
    assert run.arrival_s == pytest.approx(ARRIVALS)
    assert run.stamps.queued_s == pytest.approx(QUEUED, abs=1e-5)
    assert [request.arrival_s for request in run.workload.requests] == pytest.approx(ARRIVALS)
    assert run.bar == {("TTFT", "mean"): -0.04}


def test_the_series_is_placed_by_the_stamps(run: BenchRun) -> None:
    at_s = run.states["t_s"]
    assert np.diff(at_s) == pytest.approx(1.0)
    assert states_at(run.stamps, at_s)["running"].tolist() == [2, 3, 1, 0]


def test_settings_come_from_the_run(run: BenchRun) -> None:
    config = run_config(run, "rtxpro6000")
    assert config.scheduler == {"max_num_seqs": 8, "max_num_batched_tokens": 2048}
    assert (config.run.lag, config.run.prefix_caching, config.run.kv_blocks) == (1, True, 0)
    run.meta["kv_cache"] = {"num_gpu_blocks": 1234, "enable_prefix_caching": False}
    known = run_config(run, "rtxpro6000").run
    assert (known.kv_blocks, known.prefix_caching) == (1234, False)


def test_a_simulation_is_compared_metric_by_metric(run: BenchRun) -> None:
    found = compare(run, run_config(run, "rtxpro6000"))
    assert [line.statistic for line in found.lines[:5]] == ["mean", "P50", "P90", "P95", "P99"]
    assert found.lines[0].real_ms == pytest.approx(50.0, abs=0.1)
    assert found.lines[0].bar == -0.04
    assert (found.stamps.queued_s >= run.arrival_s).all()
    assert (found.stamps.scheduled_s >= found.stamps.queued_s).all()
    # A request that comes while others run is taken in at the end of a step.
    assert found.stamps.queued_s[0] == 0.0 < found.stamps.queued_s[1] - run.arrival_s[1] < 0.1
    cost = build_cost("llama-3.1-8b", "rtxpro6000", 1, "calibrated")
    text = tables(recorded(found) | {"steps": steps.recorded(run, cost)})
    assert "| TTFT | mean | 50.0 |" in text and "KV blocks in use" in text


def test_what_a_chunk_takes_beyond_its_kernels_is_measured(
    tmp_path: Path, cost: StepCost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third comes alone, beside two decodes: its own step and the one under way."""
    monkeypatch.setattr(steps, "FULL_SHARE", 0.2)
    monkeypatch.setattr(steps, "FIRST_STEADY_S", 0.5)
    folder, workload = write_run(tmp_path, cost)
    before = steps.chunked_steps(read_run(folder, workload), cost)
    later, workload = write_run(tmp_path / "later", cost, gap_s=0.003)
    after = steps.chunked_steps(read_run(later, workload), cost)
    assert len(before) == len(after) == 1
    assert before[0].tokens == after[0].tokens == 900 + 2
    assert after[0].beyond_s - before[0].beyond_s == pytest.approx(0.003, abs=1e-4)


def test_steps_are_told_apart_by_their_stamps(tmp_path: Path, cost: StepCost) -> None:
    """Prompts of one step, answers of 3, 6 and 10 tokens. The stamps are the simulation's own, so
    what is measured is what was simulated; and a device that is 3 % slower is seen as such.
    """
    run = read_run(*write_run(tmp_path, cost, answers=(3, 6, 10), arrivals=(0.0, 0.0, 0.0)))
    stamps = compare(run, run_config(run, "rtxpro6000")).stamps
    found = steps.decode_spans(replace(run, stamps=stamps), cost)
    assert [(span.sequences, span.steps) for span in found] == [(3, 2), (2, 3), (1, 4)]
    assert [span.real_s for span in found] == pytest.approx([x.simulated_s for x in found], 1e-3)
    begin_s = stamps.first_s[0]
    slow = replace(stamps, last_s=begin_s + 1.03 * (stamps.last_s - begin_s))
    for span in steps.decode_spans(replace(run, stamps=slow), cost):
        assert span.real_s == pytest.approx(1.03 * span.simulated_s, 1e-3)
    shown = steps.recorded(replace(run, stamps=slow), cost)["decodes"]
    assert shown[0]["sequences"] == [1, 4] and shown[0]["steps"] == 9 and shown[1]["steps"] == 0
    assert shown[0]["real_ms"] == pytest.approx(1.03 * shown[0]["simulated_ms"], 1e-3)


def test_spans_of_too_many_steps_or_of_a_part_of_one_are_left_out(
    tmp_path: Path, cost: StepCost
) -> None:
    run = read_run(*write_run(tmp_path, cost, answers=(3, 6, 40), arrivals=(0.0, 0.0, 0.0)))
    stamps = compare(run, run_config(run, "rtxpro6000")).stamps
    found = steps.decode_spans(replace(run, stamps=stamps), cost)
    assert [(span.sequences, span.steps) for span in found] == [(3, 2), (2, 3)]
    later = stamps.last_s.copy()
    later[0] += 0.5 * (stamps.last_s[0] - stamps.first_s[0]) / 2
    found = steps.decode_spans(replace(run, stamps=replace(stamps, last_s=later)), cost)
    assert found == []


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("vllm/meta.json", "no", "expected JSON"),
        ("vllm/requests.jsonl", '{"input_toks": 1}\n', "expected stamps of every request"),
    ],
)
def test_broken_files_are_named(
    tmp_path: Path, cost: StepCost, file: str, text: str, words: str
) -> None:
    folder, workload = write_run(tmp_path, cost)
    (folder / file).write_text(text)
    with pytest.raises(InputError, match=words):
        read_run(folder, workload)


def test_a_run_of_other_requests_is_refused(tmp_path: Path, cost: StepCost) -> None:
    folder, workload = write_run(tmp_path, cost)
    workload.write_text(workload.read_text().replace("900", "901"))
    with pytest.raises(InputError, match="expected the requests of the workload"):
        read_run(folder, workload)
