"""What the pictures of one run need, from memory or from a result folder; no matplotlib."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from superinfer.lab.results import (
    ITL,
    REQUESTS,
    TIMELINE,
    Run,
    itl_table,
    read_columns,
    read_sizes,
)
from superinfer.lab.results import _decimated as decimated
from superinfer.metrics import RunMetrics
from superinfer.record import Floats

Columns = Mapping[str, np.ndarray[Any, Any]]
Summary = Mapping[str, Any]
Curve = tuple[Floats, Floats]
"""Ascending values, and the share of all samples at or below each."""

MOST_CLASSES = 6
"""Classes drawn one by one; more lines than this cannot be told apart."""
_MOST_POINTS = 1000
"""Points of one curve: more than a screen has columns for it."""


@dataclass(slots=True)
class PlotData:
    """Tables of one run as arrays."""

    name: str
    summary: Summary
    requests: Columns
    itl: Columns
    timeline: Columns
    sizes: Mapping[str, int]

    @classmethod
    def of_run(cls, run: Run) -> PlotData:
        """Read the tables of a stored run."""
        return cls(
            name=run_title(run.summary) or run.name,
            summary=run.summary,
            requests=read_columns(run.folder / REQUESTS),
            itl=read_columns(run.folder / ITL),
            timeline=read_columns(run.folder / TIMELINE),
            sizes=read_sizes(run.folder / TIMELINE),
        )

    @classmethod
    def of_metrics(cls, name: str, metrics: RunMetrics, summary: Summary) -> PlotData:
        """Use a run that is still in memory."""
        record = metrics.record
        names = (
            "t_s",
            "waiting",
            "running",
            "referenced_blocks",
            "cached_blocks",
            "host_blocks",
        )
        return cls(
            name=name,
            summary=summary,
            requests=_arrays(metrics.request_columns()),
            itl=_arrays(itl_table(metrics)),
            timeline={key: getattr(record.timeline, key) for key in names},
            sizes={
                "total_blocks": record.total_blocks,
                "block_bytes": record.block_bytes,
            },
        )

    @property
    def window_s(self) -> tuple[float, float] | None:
        """The part of the run that is measured, in seconds; None for all of it."""
        found = (self.summary.get("load") or {}).get("window_s")
        return (float(found[0]), float(found[1])) if found else None

    def measured(self) -> np.ndarray[Any, Any]:
        """Mask of the requests that the summary counts: those that arrived in the window."""
        arrival_s = self.requests["arrival_s"]
        if self.window_s is None:
            return np.ones(arrival_s.size, np.bool_)
        start_s, end_s = self.window_s
        return (arrival_s >= start_s) & (arrival_s < end_s)

    def classes(self) -> list[str]:
        """Names of the classes with most requests, at most six, in order of name."""
        counts = Counter(self.requests["class"].tolist())
        return sorted(name for name, _ in counts.most_common(MOST_CLASSES))

    def target_ms(self, name: str, kind: str) -> float | None:
        """The target that all requests of a class share, in ms; None without one."""
        found = self.targets(name).get(kind)
        return float(found) if found else None

    def targets(self, name: str) -> Mapping[str, float | None]:
        """The targets that all requests of a class share, by the names of `summary.json`."""
        group = (self.summary.get("classes") or {}).get(name) or {}
        return group.get("slo") or {}

    def latency_curve(self, name: str, column: str) -> Curve:
        """Distribution of `ttft_ms`, `tpot_ms` or `e2el_ms` over a class's finished requests."""
        table = self.requests
        rows = (table["class"] == name) & (table["state"] == "finished") & self.measured()
        found = table[column][rows]
        values, counts = np.unique(found[~np.isnan(found)], return_counts=True)
        return _curve(values, counts)

    def itl_curve(self, name: str) -> Curve:
        """Distribution of the times between tokens (ms) of a class's finished requests."""
        rows = self.itl["class"] == name
        return _curve(self.itl["gap_ms"][rows], self.itl["weight"][rows])


def run_title(summary: Summary) -> str:
    """What was run on what; empty where the summary does not say."""
    what = (summary.get("run") or {}).get("run") or {}
    if not (what.get("scheduler") and what.get("trace")):
        return ""
    return f"{what['scheduler']} on {PurePath(what['trace']).name}"


def _curve(values: Floats, counts: np.ndarray[Any, Any]) -> Curve:
    if not values.size:
        return values, np.empty(0)
    kept, weights = decimated(values, counts.astype(np.int64), _MOST_POINTS)
    until = np.cumsum(weights)
    return kept, until / until[-1]


def _arrays(columns: Mapping[str, Any]) -> Columns:
    return {
        name: c if isinstance(c, np.ndarray) else np.array(c, object) for name, c in columns.items()
    }
