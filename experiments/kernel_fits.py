"""Fits of kernel measurements: non-decreasing tables, the smooth prefill model, held-out errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from superinfer.costs.profile import Kernel
from superinfer.costs.tables import Curve, Grid

Array = NDArray[np.float64]

THIN = 0.005
"""Knots are dropped while the line stays within this share of every point."""
SPIKE = 1.5
"""A point this many times both its neighbours is a faulty measurement."""
TILE_ROWS = 64
"""Rows that a GEMM works in; of 1, 16, 32, 64 and 128 this gave the lowest held-out error."""
STAIR_END = 512


@dataclass(frozen=True, slots=True)
class Points:
    """Measured seconds over one axis."""

    x: Array
    y: Array


@dataclass(frozen=True, slots=True)
class Fitted:
    """A kernel with the errors of predicting points that it did not see."""

    kernel: Kernel
    errors: Array
    points: int

    @property
    def curve(self) -> Curve:
        """The table of a kernel with one axis."""
        (axis,) = self.kernel.axes.values()
        return Curve(axis, self.kernel.seconds or ())

    def entry(self) -> dict[str, float]:
        """What the profile's `fit` section records."""
        return {
            "heldout_mape": round(float(np.mean(self.errors)), 4),
            "heldout_points": len(self.errors),
            "points": self.points,
        }


def thirds(count: int) -> Iterator[NDArray[np.bool_]]:
    """Three masks that hold out every third point in turn, never the first or the last."""
    for offset in (1, 2, 3):
        mask = np.zeros(count, dtype=bool)
        mask[offset : count - 1 : 3] = True
        yield mask


def isotonic(values: Array) -> Array:
    """The closest non-decreasing sequence in logarithms (pool adjacent violators)."""
    pools: list[tuple[float, int]] = []
    for value in np.log(values):
        mean, count = float(value), 1
        while pools and pools[-1][0] > mean:
            before, size = pools.pop()
            mean = (mean * count + before * size) / (count + size)
            count += size
        pools.append((mean, count))
    levels = np.repeat([mean for mean, _ in pools], [count for _, count in pools])
    return np.asarray(np.exp(levels), dtype=float)


def thin(x: Array, y: Array) -> list[int]:
    """Indices of the knots that keep the line within `THIN` of every point (Douglas-Peucker)."""
    keep = {0, len(x) - 1}
    spans = [(0, len(x) - 1)]
    while spans:
        low, high = spans.pop()
        line = np.interp(x[low : high + 1], x[[low, high]], y[[low, high]])
        off = np.abs(line / y[low : high + 1] - 1.0)
        worst = low + int(np.argmax(off))
        if off[worst - low] > THIN:
            keep.add(worst)
            spans += [(low, worst), (worst, high)]
    return sorted(keep)


def despiked(points: Points) -> Points:
    """Without single points that exceed both neighbours by half or more: faulty measurements."""
    y = points.y
    inner = (y[1:-1] > SPIKE * y[:-2]) & (y[1:-1] > SPIKE * y[2:])
    keep = np.concatenate(([True], ~inner, [True]))
    return Points(points.x[keep], y[keep])


def fit_curve(points: Points) -> Curve:
    """A non-decreasing piecewise-linear curve through measured points."""
    y = isotonic(points.y)
    keep = thin(points.x, y)
    return Curve(tuple(points.x[keep].tolist()), tuple(rounded(y[keep])))


def fit_table(points: Points, axis: str, fit: Callable[[Points], Curve] = fit_curve) -> Fitted:
    """A 1-D kernel table with its held-out errors."""
    points = despiked(points)
    errors = []
    for held in thirds(len(points.x)):
        curve = fit(Points(points.x[~held], points.y[~held]))
        errors += [
            abs(curve.at(x) / y - 1.0) for x, y in zip(points.x[held], points.y[held], strict=True)
        ]
    curve = fit(points)
    return Fitted(Kernel({axis: curve.axis}, curve.seconds), np.array(errors), len(points.x))


def fit_regimes(points: Points, axis: str, edge: float) -> Fitted:
    """Two tables, for points below and from `edge` on, with the jump between them."""
    small = points.x < edge
    low = fit_table(Points(points.x[small], points.y[small]), axis)
    high = fit_table(Points(points.x[~small], points.y[~small]), axis)
    before, after = low.curve, high.curve
    x = (*before.axis, edge - 1.0, *after.axis)
    y = (*before.seconds, before.at(edge - 1.0), *after.seconds)
    errors = np.concatenate((low.errors, high.errors))
    return Fitted(Kernel({axis: x}, y), errors, low.points + high.points)


def fit_stairs(points: Points) -> Curve:
    """A curve that rises in steps of `TILE_ROWS` up to `STAIR_END` rows, then in a line."""
    tiles = _tile(points.x)
    axis = np.unique(tiles)
    means = [float(np.exp(np.mean(np.log(points.y[tiles == tile])))) for tile in axis]
    by_tile = Curve(tuple(axis.tolist()), tuple(isotonic(np.array(means)).tolist()))
    edges = np.arange(TILE_ROWS, STAIR_END + 1.0, TILE_ROWS)
    small, large = axis[axis < TILE_ROWS], axis[axis > STAIR_END]
    stairs = np.concatenate((edges - TILE_ROWS + 1.0, edges))
    x = np.unique(np.concatenate((small, np.maximum(stairs, TILE_ROWS / 4 + 1.0), large)))
    y = np.array([by_tile.at(tile) for tile in _tile(x)])
    return Curve(tuple(x.tolist()), tuple(rounded(y)))


def _tile(x: Array) -> Array:
    return np.where(x <= TILE_ROWS / 4, x, np.ceil(x / TILE_ROWS) * TILE_ROWS)


def decode_grid(rows: Array, columns: Array, values: Array) -> Grid:
    """A grid without holes, non-decreasing both ways."""
    filled = values.copy()
    for index in range(len(rows)):
        _continue_row(filled, index, rows, columns)
    for _ in range(20):
        filled = np.apply_along_axis(isotonic, 1, filled)
        filled = np.apply_along_axis(isotonic, 0, filled)
    filled = np.maximum.accumulate(np.maximum.accumulate(filled, axis=1), axis=0)
    table = tuple(tuple(rounded(row)) for row in filled)
    return Grid(tuple(rows.tolist()), tuple(columns.tolist()), table)


def _continue_row(filled: Array, index: int, rows: Array, columns: Array) -> None:
    """Past its last measurement a row grows by total context like the row above it, or itself."""
    row = filled[index]
    last = int(np.flatnonzero(np.isfinite(row))[-1])
    own = (row[last] - row[last - 1]) / (columns[last] - columns[last - 1])
    for column in range(last + 1, len(columns)):
        slope = own
        if index:
            ends = columns[[column - 1, column]] * rows[index] / rows[index - 1]
            above = Curve(tuple(columns.tolist()), tuple(filled[index - 1].tolist()))
            rise = above.at(ends[1]) - above.at(ends[0])
            slope = max(own, rise / (columns[column] - columns[column - 1]))
        row[column] = row[column - 1] + slope * (columns[column] - columns[column - 1])


def causal_features(batch: Array, chunk: Array, context: Array) -> Array:
    """Columns that the coefficients of `causal_linear` multiply."""
    pairs = batch * (chunk * context + chunk * (chunk + 1) / 2)
    return np.stack([np.ones(len(chunk)), batch, batch * chunk, pairs, chunk + context], axis=1)


def relative_fit(features: Array, seconds: Array) -> Array:
    """Non-negative coefficients that minimise about the mean absolute relative error."""
    weights = np.ones(len(seconds))
    found = np.zeros(features.shape[1])
    for _ in range(30):
        found = _non_negative(features * (weights / seconds)[:, None], weights)
        off = np.abs(features @ found / seconds - 1.0)
        weights = 1.0 / np.sqrt(np.maximum(off, 0.01))
    return found


def _non_negative(features: Array, target: Array) -> Array:
    active = list(range(features.shape[1]))
    while True:
        part = np.linalg.lstsq(features[:, active], target, rcond=None)[0]
        if (part >= 0.0).all():
            break
        active = [column for column, value in zip(active, part, strict=True) if value > 0.0]
    found = np.zeros(features.shape[1])
    found[active] = part
    return found


def rounded(values: Array, digits: int = 4) -> list[float]:
    """Plain floats with so many significant digits."""
    return [float(f"{value:.{digits}g}") for value in values]
