"""Metrics of one run as statistics of its requests, for resampling requests."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from superinfer.lab.columns import read_columns
from superinfer.lab.numbers import column_of, number, split_metric
from superinfer.lab.results import NEEDED, REQUESTS, Run, measured_rows
from superinfer.lab.studies.intervals import Interval, block_interval
from superinfer.metrics.statistics import QUANTILES, weighted_quantiles
from superinfer.metrics.tokens import Bools
from superinfer.records.run import Floats, Ints

_LATENCY = re.compile(r"(mean|median|p90|p95|p99|p999)_((?:ttft|tpot|e2el)_ms)")
_STATES = {"completed": "finished", "rejected": "rejected", "failed": "failed"}
_TOTALS = ("preemptions", "rotations")
FEWEST_BEYOND = 10
"""With fewer values beyond a quantile than this, resampling does not tell how it varies."""
_TIE_MS = 1e-6
"""A nanosecond, as in `superinfer.metrics`."""


@dataclass(slots=True, frozen=True)
class Estimate:
    """A metric as a statistic of a sample in which row i occurs `counts[i]` times."""

    statistic: Callable[[Ints], float]
    influence: Floats
    """How far each row moves the statistic, up to a common factor."""
    linear: bool
    """Whether that factor is one: the statistic is a mean."""
    beyond: float = math.inf
    """Values beyond the quantile that it is; infinity for what is none."""


@dataclass(slots=True, frozen=True)
class RequestRows:
    """The measured requests of a run in order of arrival, as columns of equal length."""

    summary: Mapping[str, Any]
    columns: Mapping[str, np.ndarray[Any, Any]]

    @classmethod
    def of(cls, run: Run) -> RequestRows | None:
        """Read a run's requests, those of its window if it has one; None without the table."""
        if not (run.folder / REQUESTS).exists():
            return None
        columns = read_columns(run.folder / REQUESTS, NEEDED[REQUESTS])
        kept = measured_rows(run.summary, columns["arrival_s"])
        return cls(run.summary, {name: column[kept] for name, column in columns.items()})

    def same_requests(self, other: RequestRows) -> bool:
        """Whether both runs measured the same requests, row by row."""
        mine, theirs = self.columns["request_id"], other.columns["request_id"]
        return bool(mine.size) and mine.size == theirs.size and bool((mine == theirs).all())

    def estimate(self, metric: str) -> Estimate | None:
        """A metric of the summary; None for one that requests do not determine.

        The statistic of the sample itself is the summary's number: a metric that is defined
        otherwise than here has no estimate.
        """
        section, name, key = split_metric(metric)
        rows = np.ones(self.columns["class"].size, np.bool_)
        if section:
            rows = self.columns[column_of(section)] == name
        found, expected = self._estimate(key, rows), number(self.summary, metric)
        if found is None or expected is None:
            return None
        value = found.statistic(np.ones(rows.size, np.int64))
        return found if math.isclose(value, expected, rel_tol=1e-6, abs_tol=1e-9) else None

    def _estimate(self, key: str, rows: Bools) -> Estimate | None:
        """The estimate of a metric over some rows, whatever the summary says."""
        columns, latency = self.columns, _LATENCY.fullmatch(key)
        if latency:
            finished = rows & (columns["state"] == "finished")
            values = np.where(finished, columns[latency[2]], np.nan)
            return _mean(values) if latency[1] == "mean" else _quantile(values, latency[1])
        if key in _STATES:
            return _total((rows & (columns["state"] == _STATES[key])).astype(np.float64))
        if key in _TOTALS:
            return _total(np.where(rows, columns[key], 0).astype(np.float64))
        if key == "slo_attainment":
            return _mean(np.where(rows, columns["slo_met"].astype(np.float64), np.nan))
        if key in ("ttft_attainment", "tpot_attainment"):
            return _mean(np.where(rows, self._met(key.partition("_")[0]), np.nan))
        return None

    def _met(self, kind: str) -> Floats:
        """1 or 0 for requests whose class has that target, all alike; else NaN."""
        column = f"{kind}_ms"
        classes, finished = self.columns["class"], self.columns["state"] == "finished"
        met = np.full(classes.size, np.nan)
        for name, group in (self.summary.get("classes") or {}).items():
            target = (group.get("slo") or {}).get(column)
            if target is not None:
                rows = classes == name
                late = self.columns[column][rows] > target + _TIE_MS
                met[rows] = finished[rows] & ~late
        return met


def too_few(*estimates: Estimate) -> bool:
    """Whether one of them is a quantile that a handful of requests make.

    The interval of a single quantile of lognormal values holds it in 83 % with 3 values beyond, in
    88 % with 5, 92 % with 10 and 93.5 % with 18 (sigma 1, 200 samples each).
    """
    return any(each.beyond < FEWEST_BEYOND - 1e-9 for each in estimates)


def interval_of(one: Estimate, less: Estimate | None = None) -> Interval | None:
    """Block bootstrap interval of a statistic, or of its difference from another of the same rows;
    None as in `block_interval`, and where there are `too_few`.
    """
    if less is None:
        return None if too_few(one) else block_interval(one.statistic, [one.influence])
    if too_few(one, less):
        return None
    # Only means have influences whose difference is known.
    series = [one.influence - less.influence] if one.linear else [one.influence, less.influence]
    return block_interval(lambda n: one.statistic(n) - less.statistic(n), series)


def _mean(values: Floats) -> Estimate | None:
    """Mean of the values that are known."""
    known = ~np.isnan(values)
    if not known.any():
        return None
    filled = np.where(known, values, 0.0)
    centre = float(filled.sum()) / int(known.sum())

    def statistic(counts: Ints) -> float:
        of = int(counts[known].sum())
        return float(counts @ filled) / of if of else math.nan

    return Estimate(statistic, np.where(known, values - centre, 0.0) / known.mean(), True)


def _total(values: Floats) -> Estimate | None:
    """Sum over as many rows as there are."""
    if not values.size:
        return None

    def statistic(counts: Ints) -> float:
        return float(counts @ values) * values.size / int(counts.sum())

    return Estimate(statistic, (values - values.mean()) * values.size, True)


def _quantile(values: Floats, name: str) -> Estimate | None:
    """A quantile of the values that are known, of the kind that summaries have."""
    order = np.argsort(values, kind="stable")[: np.count_nonzero(~np.isnan(values))]
    if not order.size:
        return None
    ascending, level = values[order], np.array([QUANTILES[name]])

    def statistic(counts: Ints) -> float:
        weights = counts[order]
        return (
            float(weighted_quantiles(ascending, weights, level)[0]) if weights.any() else math.nan
        )

    point = statistic(np.ones(values.size, np.int64))
    below = np.where(np.isnan(values), 0.0, (values <= point) - level[0])
    return Estimate(statistic, below, False, order.size * (1 - QUANTILES[name]))
