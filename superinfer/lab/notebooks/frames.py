"""Summaries and tails of runs as pandas frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from superinfer.errors import ConfigError
from superinfer.lab.notebooks.run_sources import Arms, Source, Sources, arms_of, run_of
from superinfer.lab.numbers import column_of, mean_number
from superinfer.lab.results import Run
from superinfer.lab.studies.paired import Estimate, RequestRows, interval_of
from superinfer.metrics.statistics import QUANTILES

if TYPE_CHECKING:
    import pandas as pd

SUMMARY_KEYS = (
    "submitted",
    "slo_attainment",
    "median_ttft_ms",
    "p99_ttft_ms",
    "median_tpot_ms",
    "p99_tpot_ms",
    "p99_e2el_ms",
    "worst_stall_ms",
)
"""What `summary_frame` shows unless it is told otherwise; runs, classes and tenants all have it."""


def summary_frame(
    runs: Sources | Arms,
    keys: Sequence[str] = SUMMARY_KEYS,
    by: Literal["classes", "tenants"] | None = None,
) -> pd.DataFrame:
    """Numbers of `summary.json`: a row per run (`run`), or per run and class or tenant.

    Columns are the keys, in the units of the file: shares from 0 to 1, times in ms. An arm of
    several seeds is a list of runs in a mapping, and a row of means; NaN where a run has no such
    number. Raises ConfigError for a key that nobody has, or another `by`.
    """
    import pandas as pd

    if by not in (None, "classes", "tenants"):
        raise ConfigError(f"by: expected classes or tenants, got {by!r}")
    arms = arms_of(runs)
    rows = {
        (name, group): _numbers(seeds, f"{by}.{group}." if by else "", keys)
        for name, seeds in arms.items()
        for group in _groups(seeds, by)
    }
    _check_keys(rows.values(), keys, arms)
    index = pd.MultiIndex.from_tuples(rows, names=["run", column_of(by) if by else ""])
    frame = pd.DataFrame(list(rows.values()), index=index, columns=list(keys), dtype=float)
    return frame if by else frame.droplevel(1)


def quantile_frame(
    run: Source, metric: str = "ttft", *, slo_class: str | None = None
) -> pd.DataFrame:
    """Quantiles of a latency in ms with their 95 % intervals, a row for each of p50 to p99.9.

    `metric` is `ttft` or `e2el`, over finished requests or those of a class. `beyond` is how many
    requests lie above: a quantile with a handful beyond it is made by these few. `low` and `high`
    come from a moving-block bootstrap over requests in order of arrival, and are NaN where there
    are too few blocks, or fewer than ten requests beyond; they say what chance in these requests
    can do, not what other arrivals would give. Raises ConfigError for another metric or a class
    that the run does not have.
    """
    import pandas as pd

    if metric not in ("ttft", "e2el"):
        why = ": it is no property of requests" if metric == "itl" else ""
        raise ConfigError(f"metric: expected ttft or e2el, got {metric!r}{why}")
    run = run_of(run)
    rows, prefix = RequestRows.of(run), f"classes.{slo_class}." if slo_class else ""
    if slo_class and slo_class not in run.summary.get("classes", {}):
        known = ", ".join(run.summary.get("classes", {}))
        raise ConfigError(f"expected a class of {known}, got {slo_class!r}")
    found = {
        _LABELS[name]: _quantile(rows, f"{prefix}{name}_{metric}_ms", level)
        for name, level in QUANTILES.items()
    }
    columns = ["value_ms", "low_ms", "high_ms", "beyond"]
    return pd.DataFrame.from_dict(found, orient="index", columns=columns)


_LABELS = {"median": "p50", "p90": "p90", "p95": "p95", "p99": "p99", "p999": "p99.9"}


def _groups(seeds: Sequence[Run], by: str | None) -> list[str]:
    """Names that every seed has."""
    if by is None:
        return [""]
    first, *others = [run.summary.get(by) or {} for run in seeds]
    return [name for name in first if all(name in other for other in others)]


def _numbers(seeds: Sequence[Run], prefix: str, keys: Sequence[str]) -> list[float | None]:
    return [mean_number([run.summary for run in seeds], prefix + key) for key in keys]


def _check_keys(rows: Any, keys: Sequence[str], arms: Mapping[str, Sequence[Run]]) -> None:
    """ConfigError for a key that no summary has a place for."""
    known = {key for seeds in arms.values() for run in seeds for key in run.summary}
    for column, key in enumerate(keys):
        if key not in known and all(row[column] is None for row in rows):
            raise ConfigError(f"expected a number of the summary, got {key!r}")


def _quantile(rows: RequestRows | None, metric: str, level: float) -> list[float]:
    estimate = rows.estimate(metric) if rows else None
    if rows is None or estimate is None:
        return [math.nan] * 4
    import numpy as np

    counts = np.ones(rows.columns["class"].size, np.int64)
    interval = interval_of(estimate)
    bounds = (interval.low, interval.high) if interval else (math.nan, math.nan)
    return [estimate.statistic(counts), *bounds, _beyond(estimate, level)]


def _beyond(estimate: Estimate, level: float) -> int:
    """Rows above the quantile: their influence is that of not being at or below it."""
    import numpy as np

    return int(np.count_nonzero(np.isclose(estimate.influence, -level)))
