"""What was recorded on an H200, fitted and simulated again."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from executor.calibration.factors import Factors, entry, factors_of, inverse, scaled
from executor.steps.graphs import graphs_of
from experiments.resimulate import (
    MOST_ROWS,
    OUTCOME,
    filled,
    fitted_again,
    recorded,
    resimulate,
    steps_of,
)
from superinfer.costs import CalibratedCost, Chunk

RESULTS, PROFILE, SHAPE = recorded()
STEPS = steps_of(RESULTS)
AGAIN = fitted_again(PROFILE, SHAPE, STEPS)


def test_the_graphs_are_those_that_the_steps_were_padded_to() -> None:
    """The recording says of each step how many rows its graph computed for nothing."""
    graphs = graphs_of(MOST_ROWS)
    sets = RESULTS["calibrate-8b"]["checks"]["calibrate"]["steps"]
    for chunks, decodes, _, _, replay_s, padding in (*sets["fitted"], *sets["unseen"]):
        rows = decodes + sum(tokens for tokens, _ in chunks)
        if not chunks:
            assert graphs.held_decodes(decodes) == rows + padding
            continue
        graph = graphs.holding(rows, decodes, len(chunks))
        assert (replay_s is None) == (graph is None)
        assert graph is None or graph.rows == rows + padding


def test_knowing_of_padding_predicts_steps_with_chunks() -> None:
    """Replays of held-out steps, on the device alone: without host time."""
    errors = []
    for profile in (PROFILE, AGAIN):
        cost = CalibratedCost(profile, SHAPE)
        replayed = [step for step in STEPS.unseen if step.chunks and step.replay_s]
        errors.append(
            float(np.mean([abs(s.device_s(cost) / (s.replay_s or 1) - 1) for s in replayed]))
        )
    before, now = errors
    assert before > 0.05
    assert now < 0.04


def test_held_out_steps_are_within_a_tenth() -> None:
    for name in ("step", "step_decode", "step_prefill"):
        assert AGAIN.fit[name]["heldout_mape"] <= 0.1
    assert AGAIN.fit["step"]["heldout_mape"] < PROFILE.fit["step"]["heldout_mape"] - 0.01


@pytest.mark.parametrize("tokens", [2048, 8192])
def test_prompts_of_thousands_of_tokens_take_what_another_part_measured(tokens: int) -> None:
    """Part `floors` ran them by themselves; calibration never saw those runs."""
    rows = RESULTS["floors"]["checks"]["prefill"]["rows"]
    (measured,) = (row["seconds"] for row in rows if row["point"] == f"prefill {tokens}")
    before, now = (
        CalibratedCost(profile, SHAPE).step_s([Chunk(tokens, 0)], 0, 0) / measured - 1
        for profile in (PROFILE, AGAIN)
    )
    assert abs(now) < 0.05 < abs(before)


def test_factors_come_off_again() -> None:
    """Scaled and scaled back, whether wide steps have a factor of their own or not."""
    for factors in (Factors(0.9, 1.1, 1.2), Factors(0.9, 1.1, 1.2, 1.3)):
        assert factors_of(entry(factors)) == factors
        back = scaled(scaled(PROFILE, factors), inverse(factors))
        for name, kernel in PROFILE.kernels.items():
            assert np.asarray(back.kernels[name].seconds) == pytest.approx(
                np.asarray(kernel.seconds), rel=1e-9
            )


def test_a_full_recording_stays_as_it_is() -> None:
    """Every point was measured."""
    assert filled(PROFILE).kernels == PROFILE.kernels


def test_a_sparse_recording_is_filled_before_its_fit() -> None:
    """Prompts by themselves are predicted, with prefill attention of the smallest and the largest
    chunk alone.
    """
    kernel = PROFILE.kernels["attention_prefill"]
    chunks, context = kernel.axes.values()
    axes = {"chunk_tokens": (chunks[0], chunks[-1]), "context_tokens": context}
    table = kernel.seconds
    assert isinstance(table, tuple)
    ends = replace(kernel, axes=axes, seconds=(table[0], table[-1]))
    sparse = replace(PROFILE, kernels={**PROFILE.kernels, "attention_prefill": ends})
    assert filled(sparse).kernels["attention_prefill"].axes == kernel.axes
    full, again = (fitted_again(profile, SHAPE, STEPS) for profile in (PROFILE, sparse))
    for tokens in (2048, 8192):
        wanted, found = (
            CalibratedCost(profile, SHAPE).step_s([Chunk(tokens, 0)], 0, 0)
            for profile in (full, again)
        )
        assert found == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize("name", ["gemm_qkv", "norm", "gemm_lm_head", "sample"])
def test_a_sparse_curve_gets_its_axis_back(name: str) -> None:
    """Of tokens, or of rows that are sampled; its ends stay."""
    kernel = PROFILE.kernels[name]
    ((axis, points),) = kernel.axes.items()
    seconds = kernel.seconds
    assert isinstance(seconds, tuple)
    ends = replace(kernel, axes={axis: (points[0], points[-1])}, seconds=(seconds[0], seconds[-1]))
    found = filled(replace(PROFILE, kernels={**PROFILE.kernels, name: ends})).kernels[name]
    assert found.axes == kernel.axes
    assert found.seconds and (found.seconds[0], found.seconds[-1]) == ends.seconds


@pytest.mark.slow
def test_the_runs_of_the_device_come_out() -> None:
    """As recorded beside them; every judged metric within its limit, and the same winner."""
    found = resimulate()
    stored = json.loads(OUTCOME.read_text(encoding="utf-8"))
    for policy, compared in found["policies"].items():
        for arm, metrics in compared.items():
            for name, pair in metrics.items():
                assert pair["simulated"] == pytest.approx(
                    stored["policies"][policy][arm][name]["simulated"], rel=1e-6
                )
        for name, pair in compared["graphs and both ways"].items():
            error = abs(pair["simulated"] / pair["device"] - 1) if pair["device"] else 0.0
            if name.endswith("_ms") and name.startswith("mean_"):
                assert error <= 0.1
            if name.endswith("_ms") and name.startswith("p99_"):
                assert error <= 0.2
    best = found["policies"]["rotating"]["graphs and both ways"]["mean_ttft_ms"]
    other = found["policies"]["vllm"]["graphs and both ways"]["mean_ttft_ms"]
    assert best["simulated"] < other["simulated"] and best["device"] < other["device"]
