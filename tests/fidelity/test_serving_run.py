"""The recorded run of vLLM 0.19 on an RTX PRO 6000: how far the simulation may be off it.

The ceilings are what was reached, plus a small margin; docs/accuracy.md has the figures.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.accuracy import serving, steps
from experiments.accuracy.bench_run import BenchRun, read_run
from experiments.accuracy.compare import Comparison, compare, run_config
from experiments.studykit.record import SIMULATED
from superinfer.costs import build_cost

CEILINGS = {
    "TTFT": {"mean": 0.005, "P50": 0.036, "P90": 0.007, "P95": 0.006, "P99": 0.008},
    "TPOT": {"mean": 0.003, "P50": 0.0095, "P90": 0.0095, "P95": 0.008, "P99": 0.01},
    "E2E": {"mean": 0.003, "P50": 0.004, "P90": 0.004, "P95": 0.005, "P99": 0.004},
}
"""Shares of the real value."""
BAR = 0.01
"""Each line is to be closer than this, or than the other simulator where that is further off."""


@pytest.fixture(scope="module")
def run(data_dir: Path) -> BenchRun:
    folder, workload = data_dir / serving.RUN, data_dir / serving.WORKLOAD
    if not workload.is_file():
        pytest.skip(f"needs the recorded run: no {workload}")
    return read_run(folder, workload)


@pytest.fixture(scope="module")
def found(run: BenchRun) -> Comparison:
    return compare(run, run_config(run, "rtxpro6000"))


def test_latencies_stay_under_their_ceilings(found: Comparison) -> None:
    off = {
        f"{line.metric} {line.statistic}": line.error
        for line in found.lines
        if abs(line.error) > CEILINGS[line.metric][line.statistic]
    }
    assert not off


def test_the_ceilings_are_close_to_what_was_recorded() -> None:
    """Else they hold nothing: each is at most 0.4 points above."""
    path = SIMULATED / "accuracy" / "serving" / "summary.json"
    for line in json.loads(path.read_text(encoding="utf-8"))["lines"]:
        reached, ceiling = abs(line["error"]), CEILINGS[line["metric"]][line["statistic"]]
        assert reached <= ceiling <= reached + 0.004, (line["metric"], line["statistic"])


def test_every_line_keeps_the_bar(found: Comparison) -> None:
    missed = set()
    for line in found.lines:
        assert line.bar is not None
        if abs(line.error) >= max(abs(line.bar), BAR):
            missed.add((line.metric, line.statistic))
    assert not missed


def test_what_comes_out_is_what_is_recorded(found: Comparison) -> None:
    """So the tables of docs/accuracy.md, made of the record, are those of this version."""
    path = SIMULATED / "accuracy" / "serving" / "summary.json"
    lines = json.loads(path.read_text(encoding="utf-8"))["lines"]
    shown = {(line["metric"], line["statistic"]): line["simulated_ms"] for line in lines}
    assert shown == pytest.approx(
        {(line.metric, line.statistic): line.simulated_ms for line in found.lines}, rel=1e-6
    )


def test_states_of_the_scheduler_second_by_second(found: Comparison) -> None:
    for name, limit in (("running", 1.0), ("waiting", 0.8), ("kv_share", 0.003)):
        real, ours = found.states[name]
        assert np.mean(np.abs(ours - real)) < limit, name
    assert found.preemptions == 0


def test_prefixes_are_found_where_the_blocks_say(found: Comparison) -> None:
    assert found.hit_share == pytest.approx(0.077, abs=0.005)
    assert found.trust["extrapolated_share"] == 0.0


def test_the_constant_is_what_the_steady_state_shows(run: BenchRun) -> None:
    cost = build_cost("llama-3.1-8b", "rtxpro6000", 1, "calibrated")
    samples = [step.beyond_s for step in steps.chunked_steps(run, cost)]
    assert len(samples) > 50
    assert cost.host.chunked_s == pytest.approx(float(np.median(samples)), abs=5e-6)
