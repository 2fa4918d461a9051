"""The numbers that are reported of every arm, and their paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from superinfer.lab.differences import Difference, differences
from superinfer.lab.intervals import mean_interval
from superinfer.lab.numbers import mean_number, number
from superinfer.lab.results import Run

ATTAINMENT = "classes.chat.slo_attainment"
P99_TTFT = "classes.chat.p99_ttft_ms"
BATCH = "classes.batch.output_throughput"
PEAK_KV = "peak_kv_gib"
MEAN_E2E = "mean_e2el_ms"


@dataclass(slots=True, frozen=True)
class Measure:
    """A number of a summary and how a table shows it."""

    key: str
    title: str
    scale: float = 1.0
    digits: int = 0


CHAT_MEASURES = (
    Measure(ATTAINMENT, "attainment (%)", 100, 1),
    Measure("classes.chat.median_ttft_ms", "P50 TTFT (ms)"),
    Measure("classes.chat.p95_ttft_ms", "P95 TTFT (ms)"),
    Measure(P99_TTFT, "P99 TTFT (ms)"),
    Measure("classes.chat.p99_itl_ms", "P99 ITL (ms)"),
    Measure("classes.chat.p999_itl_ms", "P99.9 ITL (ms)"),
    Measure("classes.chat.max_itl_ms", "max ITL (ms)"),
    Measure("classes.chat.rejected", "rejected", 1, 1),
    Measure("classes.chat.unfinished", "unfinished", 1, 1),
    Measure("relegations", "relegated", 1, 1),
)
BATCH_MEASURES = (
    Measure(BATCH, "output tokens/s", 1, 1),
    Measure("classes.batch.total_token_throughput", "all tokens/s"),
    Measure("classes.batch.median_ttft_ms", "P50 TTFT (s)", 1e-3, 1),
    Measure("classes.batch.p99_ttft_ms", "P99 TTFT (s)", 1e-3, 1),
    Measure("classes.batch.p99_itl_ms", "P99 ITL (ms)"),
    Measure("classes.batch.p999_itl_ms", "P99.9 ITL (ms)"),
    Measure("classes.batch.max_itl_ms", "max ITL (ms)"),
    Measure("classes.batch.rejected", "rejected", 1, 1),
)
COST_MEASURES = (
    Measure(PEAK_KV, "peak referenced KV (GiB per GPU)", 1, 2),
    Measure("total_rotations", "rotations", 1, 1),
    Measure("total_preemptions", "preemptions", 1, 1),
    Measure("d2h_gib", "to the host (GiB per link)", 1, 1),
    Measure("h2d_gib", "from the host (GiB per link)", 1, 1),
    Measure("recomputed_tokens", "recomputed tokens"),
)
TABLES = {"chat": CHAT_MEASURES, "batch": BATCH_MEASURES, "memory": COST_MEASURES}
DECIDING = (ATTAINMENT, P99_TTFT, BATCH, PEAK_KV)
"""What claims are made about."""

Numbers = dict[str, Any]


def numbers_of(runs: Sequence[Run], keys: Sequence[str] | None = None) -> dict[str, Numbers]:
    """Mean, values by seed and interval of the mean of each measure."""
    wanted = keys or [each.key for table in TABLES.values() for each in table]
    return {key: _numbers(runs, key) for key in wanted}


def paired(
    arms: Mapping[str, Sequence[Run]], reference: str, keys: Sequence[str] = DECIDING
) -> dict[str, dict[str, Numbers]]:
    """Differences of every arm from the reference, by arm and measure."""
    found: dict[str, dict[str, Numbers]] = {}
    for each in differences(arms, keys, reference):
        found.setdefault(each.arm, {})[each.metric] = _difference(each)
    return found


def _numbers(runs: Sequence[Run], key: str) -> Numbers:
    values = [number(run.summary, key) for run in runs]
    known = [value for value in values if value is not None]
    interval = mean_interval(np.array(known, float)) if len(known) == len(values) else None
    return {
        "mean": mean_number([run.summary for run in runs], key),
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "by_seed": values,
    }


def _difference(found: Difference) -> Numbers:
    interval, base = found.interval, found.base or None
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {
        "difference": found.difference,
        "low": low,
        "high": high,
        "relative": found.relative,
        "relative_low": None if low is None or base is None else low / base,
        "relative_high": None if high is None or base is None else high / base,
    }
