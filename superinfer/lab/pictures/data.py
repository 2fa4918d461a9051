"""What the pictures of one run need; no matplotlib."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from superinfer.lab.columns import Columns
from superinfer.lab.itl import decimated
from superinfer.lab.metric_names import Summary
from superinfer.lab.results import Run, measured_rows, measured_window
from superinfer.metrics import Window
from superinfer.metrics.tokens import Bools
from superinfer.records.run import Floats

Curve = tuple[Floats, Floats]
"""Ascending values, and the share of all samples at or below each."""

LATENCIES = {
    "ttft": ("Time to first token", "share of finished requests", "ttft_ms"),
    "itl": ("Time between tokens", "share of tokens", "tpot_ms"),
    "e2el": ("End to end", "share of finished requests", "e2el_ms"),
}
"""Title, what is counted, and the target that belongs to it."""
MOST_CLASSES = 6
"""Classes drawn one by one; more lines than this cannot be told apart."""
MOVED = ("rotations", "h2d_bytes", "d2h_bytes")
"""The cumulative columns of a timeline."""
_MOST_INTERVALS = 120
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
        """The tables of a run, those of its frames that were read or replaced."""
        return cls(
            name=run_title(run.summary) or run.name,
            summary=run.summary,
            requests=run.columns("requests"),
            itl=run.columns("itl"),
            timeline=run.columns("timeline"),
            sizes=run.sizes,
        )

    @property
    def window(self) -> Window | None:
        """The part of the run that is measured; None for all of it."""
        return measured_window(self.summary)

    def measured(self) -> Bools:
        """Mask of the requests that the summary counts."""
        return measured_rows(self.summary, self.requests["arrival_s"])

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

    def latency_curve(self, name: str, key: str) -> Curve:
        """Distribution of a latency of `LATENCIES` in one class, over its finished requests; times
        between tokens are those of the whole run.
        """
        if key == "itl":
            rows = self.itl["class"] == name
            return _curve(self.itl["gap_ms"][rows], self.itl["weight"][rows])
        table = self.requests
        rows = (table["class"] == name) & (table["state"] == "finished") & self.measured()
        found = table[f"{key}_ms"][rows]
        return _curve(*np.unique(found[~np.isnan(found)], return_counts=True))

    def attainment_groups(self) -> dict[str, Summary]:
        """The summary of the whole run as `all`, then its classes where there are several."""
        groups: dict[str, Summary] = {"all": self.summary}
        known = self.summary.get("classes") or {}
        if len(known) > 1:
            groups |= {name: known[name] for name in self.classes() if name in known}
        return groups

    def moved(self) -> bool:
        """Whether anything was copied between device and host, as far as the timeline tells; one
        that was stored by an earlier version does not.
        """
        return any(self.timeline[name].any() for name in MOVED if name in self.timeline)

    def rate(self, column: str) -> tuple[Floats, Floats]:
        """Growth per second of a cumulative column: edges of equal intervals, and their means.

        Between two samples growth is taken as even, so the intervals add up to the whole.
        """
        t, total = self.timeline["t_s"], self.timeline.get(column)
        if total is None or t.size < 2 or t[-1] <= t[0]:
            return np.array([0.0, 1.0]), np.zeros(1)
        edges = np.linspace(t[0], t[-1], min(_MOST_INTERVALS, t.size - 1) + 1)
        at_edges = np.interp(edges, t, total)
        at_edges[0] = 0  # what was moved before the first sample belongs to the first interval
        return edges, np.diff(at_edges) / np.diff(edges)


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
