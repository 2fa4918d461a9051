"""The recorded run of vLLM 0.19 on an RTX PRO 6000: how far the simulation may be off it.

The ceilings are what was reached, plus a small margin; docs/accuracy.md has the figures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.accuracy import serving
from experiments.accuracy.bench_run import BenchRun, read_run
from experiments.accuracy.serving import Comparison
from superinfer.costs import build_cost

CEILINGS = {
    "TTFT": {"mean": 0.006, "P50": 0.042, "P90": 0.006, "P95": 0.006, "P99": 0.006},
    "TPOT": {"mean": 0.004, "P50": 0.010, "P90": 0.012, "P95": 0.010, "P99": 0.014},
    "E2E": {"mean": 0.003, "P50": 0.005, "P90": 0.004, "P95": 0.008, "P99": 0.005},
}
"""Shares of the real value."""
MISSED = {("TPOT", "P90"), ("TPOT", "P99")}
"""Lines over the bar, 1 % or the other simulator's error; docs/accuracy.md names them."""


@pytest.fixture(scope="module")
def run(data_dir: Path) -> BenchRun:
    folder, workload = data_dir / serving.RUN, data_dir / serving.WORKLOAD
    if not workload.is_file():
        pytest.skip(f"needs the recorded run: no {workload}")
    return read_run(folder, workload)


@pytest.fixture(scope="module")
def found(run: BenchRun) -> Comparison:
    return serving.compare(run, serving.run_config(run, "rtxpro6000"))


def test_latencies_stay_under_their_ceilings(found: Comparison) -> None:
    off = {
        f"{line.metric} {line.statistic}": line.error
        for line in found.lines
        if abs(line.error) > CEILINGS[line.metric][line.statistic]
    }
    assert not off


def test_only_the_lines_that_are_named_miss_the_bar(found: Comparison) -> None:
    missed = set()
    for line in found.lines:
        assert line.bar is not None
        if abs(line.error) >= max(abs(line.bar), 0.01):
            missed.add((line.metric, line.statistic))
    assert missed == MISSED


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
    samples = serving.chunked_samples(run, cost)
    assert len(samples) > 50
    assert cost.host.chunked_s == pytest.approx(float(np.median(samples)), abs=5e-6)
