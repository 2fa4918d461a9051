"""What the pictures of one run need, from memory or from a result folder; no matplotlib."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
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
from superinfer.metrics import RunMetrics

Columns = Mapping[str, np.ndarray[Any, Any]]
Summary = Mapping[str, Any]

MOST_CLASSES = 6
"""Classes drawn one by one; more lines than this cannot be told apart."""


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
            name=run.name,
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

    def classes(self) -> list[str]:
        """Names of the classes with most requests, at most six, in order of name."""
        counts = Counter(self.requests["class"].tolist())
        return sorted(name for name, _ in counts.most_common(MOST_CLASSES))

    def target_ms(self, name: str, kind: str) -> float | None:
        """The target that all requests of a class share, in ms; None without one."""
        group = (self.summary.get("classes") or {}).get(name) or {}
        found = (group.get("slo") or {}).get(kind)
        return float(found) if found else None


def _arrays(columns: Mapping[str, Any]) -> Columns:
    return {
        name: c if isinstance(c, np.ndarray) else np.array(c, object) for name, c in columns.items()
    }
