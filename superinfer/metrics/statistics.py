"""Mean, deviation and quantiles of plain samples and of samples that stand for many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superinfer.records.run import Floats

Counts = NDArray[np.integer[Any]]

QUANTILES: Mapping[str, float] = {
    "median": 0.5,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
    "p999": 0.999,
}
STATISTICS = ("mean", "median", "std", "p90", "p95", "p99", "p999")
_LEVELS = np.array(list(QUANTILES.values()))


def weighted_quantiles(values: Floats, weights: Counts, levels: Floats) -> Floats:
    """Quantiles of ascending `values`, each of which stands for `weights[i]` equal samples.

    Equal to `numpy.quantile(numpy.repeat(values, weights), levels)` with numpy's default method
    `linear` (Hyndman and Fan 1996, type 7): the quantile sits at position `level * (n - 1)` of the
    n expanded samples, between neighbours by linear interpolation.
    """
    until = np.cumsum(weights, dtype=np.int64)
    position = levels * (until[-1] - 1)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, until[-1] - 1)
    below = values[np.searchsorted(until, low, side="right")]
    above = values[np.searchsorted(until, high, side="right")]
    return np.asarray(below + (above - below) * (position - low), dtype=np.float64)


def statistics(values: Floats) -> dict[str, float | None]:
    """Mean, population deviation and quantiles of the known `values`; all `None` without one."""
    known = values[~np.isnan(values)]
    if not known.size:
        return dict.fromkeys(STATISTICS)
    return _named(known.mean(), known.std(), np.quantile(known, _LEVELS))


def weighted_statistics(values: Floats, weights: Counts) -> dict[str, float | None]:
    """`statistics` of ascending `values` that stand for `weights` equal samples each."""
    total = int(weights.sum(dtype=np.int64))
    if not total:
        return dict.fromkeys(STATISTICS)
    counts = weights.astype(np.float64)
    mean = float(values @ counts) / total
    variance = float(np.square(values - mean) @ counts) / total
    return _named(mean, variance**0.5, weighted_quantiles(values, weights, _LEVELS))


def _named(mean: float, deviation: float, quantiles: Floats) -> dict[str, float | None]:
    found = dict(zip(QUANTILES, quantiles.tolist(), strict=True))
    found |= {"mean": float(mean), "std": float(deviation)}
    return {name: found[name] for name in STATISTICS}
