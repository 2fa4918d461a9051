"""Fits of kernel measurements: non-decreasing tables, the smooth prefill model, held-out errors.

Points are seconds over tokens or bytes; every error is a share of the measured time, on points that
the fit did not see.
"""

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
"""Rows from which a GEMM table rises in a line: the steps of its tiles are small there."""
JUMP = 1.03
"""From one measured count to the next a time that grows more than this has passed a tile's edge."""
REPEAT = 0.005
"""Token counts this close, as a share, are taken as repeats of one measurement."""
REACH_OCTAVES = 2.0
"""How far `fit_smooth` looks to each side; of 1.5, 2, 2.5 and 3 none was better by over 0.1 %."""


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

    def reshaped(self, curve: Curve) -> Fitted:
        """The same errors with another table over the same axis."""
        (axis,) = self.kernel.axes
        return Fitted(Kernel({axis: curve.axis}, curve.seconds), self.errors, self.points)

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
        # An end can only be off where two points share an x: there is nothing left to keep.
        if off[worst - low] > THIN and worst not in (low, high):
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
    # The small ones' line, continued to the edge, may lie above the large ones: no step down.
    top = min(before.at(edge - 1.0), after.seconds[0])
    x = (*before.axis, edge - 1.0, *after.axis)
    y = tuple(np.maximum.accumulate((*before.seconds, top, *after.seconds)).tolist())
    errors = np.concatenate((low.errors, high.errors))
    return Fitted(Kernel({axis: x}, y), errors, low.points + high.points)


def fit_edges(points: Points) -> Curve:
    """A non-decreasing curve that keeps its jumps: each comes right after the point below it.

    Counts are measured at multiples of the rows that tiles are made of, so one row more than the
    last count of a tile takes what the whole next tile takes.
    """
    x, y = points.x, isotonic(points.y)
    jumps = (y[1:] > JUMP * y[:-1]) & (x[1:] > x[:-1] + 1.0) & (x[:-1] >= TILE_ROWS)
    at = np.flatnonzero(jumps) + 1
    x, y = np.insert(x, at, x[at - 1] + 1.0), np.insert(y, at, y[at])
    keep = thin(x, y)
    return Curve(tuple(x[keep].tolist()), tuple(rounded(y[keep])))


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


def fit_smooth(points: Points) -> Curve:
    """A curve through points that scatter: at each, a quadratic through those around it.

    Local regression in logarithms with tricube weights, made robust by reweighting (Cleveland,
    Journal of the American Statistical Association 74(368), 1979, sections 2 and 5).
    """
    x, y = np.log2(points.x), np.log(points.y)
    levels = np.array([_local_level(x - at, y) for at in x])
    return fit_curve(Points(points.x, np.exp(levels)))


def _local_level(offset: Array, y: Array) -> float:
    distance = np.abs(offset)
    reach = max(REACH_OCTAVES, 1.01 * float(np.sort(distance)[min(4, len(y) - 1)]))
    near = np.clip(1.0 - (distance / reach) ** 3, 0.0, None) ** 3
    powers = np.stack([np.ones(len(y)), offset, offset**2], axis=1)
    trust = np.ones(len(y))
    for _ in range(6):
        weight = np.sqrt(near * trust)
        found = np.linalg.lstsq(powers * weight[:, None], y * weight, rcond=None)[0]
        trust = 1.0 / np.maximum(np.abs(powers @ found - y), 0.01)
    return float(found[0])


def without_repeats(points: Points) -> Points:
    """Counts within `REPEAT` of the one before as one point: the last x, the geometric mean."""
    apart = points.x[1:] > points.x[:-1] * (1.0 + REPEAT)
    ends = np.append(np.flatnonzero(apart), len(points.x) - 1)
    groups = np.split(np.log(points.y), ends[:-1] + 1)
    return Points(points.x[ends], np.array([float(np.exp(group.mean())) for group in groups]))


def continued(fitted: Fitted, points: Points, end: float) -> Fitted:
    """The same table with one more knot at `end`, on the line of its upper points.

    Past its last knot a table goes on with its last slope, and that of two neighbouring points is
    noise. The line is fitted on the points of the upper two octaves.
    """
    curve = fitted.curve
    upper = points.x >= points.x[-1] / 4
    line = np.stack([np.ones(int(upper.sum())), points.x[upper]], axis=1)
    slope = relative_fit(line, points.y[upper])[1]
    last_s = curve.seconds[-1] + slope * (end - curve.axis[-1])
    seconds = (*curve.seconds, *rounded(np.array([last_s])))
    return fitted.reshaped(Curve((*curve.axis, float(end)), seconds))


def scaled_above_floor(curve: Curve, ratio: float) -> Curve:
    """A curve whose time above that of its first knot is multiplied: the launch does not scale."""
    first = curve.seconds[0]
    seconds = np.array([first + (value - first) * ratio for value in curve.seconds])
    return Curve(curve.axis, tuple(rounded(seconds)))


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


def through(axis: Array, x: float, at: Callable[[float], Array], per_side: int) -> Array:
    """Measurements read at `x`: themselves on the axis, else on a line through so many points on
    each side, or past an end through the last ones.

    Through more than two points it is the line of least relative error that has no negative
    intercept or slope: neither a launch nor a wider product takes less than no time.
    """
    if x in axis:
        return at(x)
    high = int(np.clip(np.searchsorted(axis, x), per_side, len(axis) - per_side))
    near = axis[high - per_side : high + per_side]
    columns = np.stack([at(point) for point in near]).T
    line = np.stack([np.ones(len(near)), near], axis=1)
    fit = np.linalg.solve if len(near) == 2 else relative_fit
    return np.array([float(np.array([1.0, x]) @ fit(line, column)) for column in columns])


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
