"""The numbers of an arm, and how it differs from others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from experiments.headline.settings import OURS
from experiments.headline.workloads import Workload
from experiments.studykit.measures import Measure, Numbers, numbers_of, paired
from superinfer.lab.results import Run

Runs = Mapping[str, Sequence[Run]]

ATTAINMENT = Measure("attainment", "SLO attainment (%)", 100, 1)
E2E = Measure("p99_e2e_s", "P99 E2E (s)", 1, 1)
TTFT = Measure("p99_ttft_s", "P99 TTFT (s)", 1, 2)
TOKENS = Measure("tokens_per_s", "output tokens/s", 1, 0)
BATCH = Measure("batch_tokens_per_s", "batch tokens/s", 1, 0)
PEAK = Measure("peak_kv_gib", "peak KV (GiB per GPU)", 1, 2)
UNSERVED = Measure("unserved", "not served (%)", 100, 1)
"""Turned away, failed or not finished when the run was cut off."""
MEASURES = (ATTAINMENT, E2E, TTFT, TOKENS, BATCH, PEAK, UNSERVED)
HIGHER_IS_BETTER = (ATTAINMENT, TOKENS, BATCH)


def measures_of(workload: Workload) -> tuple[Measure, ...]:
    """Batch throughput only where batch work runs beside something else."""
    return tuple(each for each in MEASURES if each != BATCH or workload.judged)


def measured(workload: Workload, runs: Sequence[Run]) -> dict[str, Numbers]:
    """Mean, values by seed and interval of every measure."""
    keys = [each.key for each in measures_of(workload)]
    return numbers_of([with_numbers(workload, run) for run in runs], keys)


def differences_of(workload: Workload, runs: Runs, ours: str = OURS) -> dict[str, Any]:
    """By rival and measure: how ours differs from it, paired by seed."""
    keys = [each.key for each in measures_of(workload)]
    told = {name: [with_numbers(workload, run) for run in each] for name, each in runs.items()}
    return {
        name: paired({name: told[name], ours: told[ours]}, name, keys)[ours]
        for name in told
        if name != ours
    }


def with_numbers(workload: Workload, run: Run) -> Run:
    """The run with the measures in its summary, those of the class that is judged."""
    summary = run.summary
    judged = summary["classes"][workload.judged] if workload.judged else summary
    batch = summary["classes"].get("batch", {})
    found = {
        ATTAINMENT.key: judged["slo_attainment"],
        E2E.key: _seconds(judged["p99_e2el_ms"]),
        TTFT.key: _seconds(judged["p99_ttft_ms"]),
        TOKENS.key: summary["output_throughput"],
        BATCH.key: batch.get("output_throughput"),
        UNSERVED.key: 1.0 - judged["completed"] / judged["submitted"]
        if judged["submitted"]
        else 0.0,
        PEAK.key: summary["peak_kv_bytes"] / 2**30,
    }
    return replace(run, summary={**summary, **found})


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3
