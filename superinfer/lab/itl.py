"""Times between tokens as a table of bearable size: of millions, some thousands are kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from superinfer.metrics import RunMetrics
from superinfer.records.run import Ints

_MOST_ROWS = 20_000


def itl_table(metrics: RunMetrics) -> dict[str, list[str] | np.ndarray[Any, Any]]:
    """Times between tokens per class, at most 20,000 rows in all: `class`, `gap_ms`, `weight`."""
    rows = metrics.class_rows()
    most = max(2, _MOST_ROWS // max(1, len(rows)))
    found = {name: decimated(*metrics.itl_counts(r), most) for name, r in rows.items()}
    return {
        "class": [name for name, (gaps, _) in found.items() for _ in range(gaps.size)],
        "gap_ms": np.concatenate([np.empty(0), *(gaps for gaps, _ in found.values())]),
        "weight": np.concatenate([np.empty(0, np.int64), *(w for _, w in found.values())]),
    }


def decimated(
    gaps: np.ndarray[Any, Any], counts: Ints, most: int
) -> tuple[np.ndarray[Any, Any], Ints]:
    """Keep at most `most` of ascending `gaps`; each stands for those from the one kept before it.

    The kept values are exact, so the CDF through them is exact at these points. Half of them are
    spread over the counts and half over the distinct values, which keeps the thin tail.
    """
    if gaps.size <= most:
        return gaps, counts
    until = np.cumsum(counts)
    half = most // 2
    body = np.searchsorted(until, np.linspace(1, until[-1], most - half))
    tail = gaps.size - 1 - np.unique(np.geomspace(1, gaps.size, half).astype(np.int64) - 1)
    kept = np.unique(np.concatenate((body, tail)))
    return gaps[kept], np.diff(until[kept], prepend=0)
