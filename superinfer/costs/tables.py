"""Piecewise-linear tables: how a measured kernel is read between and past its points.

Linear in plain seconds and tokens. On the A100 tables log-log interpolation was no better on
held-out points, and only plain coordinates make sums of tables exact: all kernels of a step that
depend on the token count alone fold into one curve.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds over one increasing axis: constant below it, its last slope past the end."""

    axis: tuple[float, ...]
    seconds: tuple[float, ...]

    def at(self, x: float) -> float:
        """Seconds at `x`."""
        axis, seconds = self.axis, self.seconds
        if x <= axis[0] or len(axis) == 1:
            return seconds[0]
        right = min(bisect_right(axis, x), len(axis) - 1)
        x0, y0 = axis[right - 1], seconds[right - 1]
        return y0 + (x - x0) * (seconds[right] - y0) / (axis[right] - x0)

    def piece(self, x: float) -> tuple[float, float]:
        """Slope just above `x`, and where the curve next bends."""
        axis, seconds = self.axis, self.seconds
        right = bisect_right(axis, x)
        if right == 0 or len(axis) == 1:
            return 0.0, axis[0] if right == 0 else inf
        end = axis[right] if right < len(axis) - 1 else inf
        right = min(right, len(axis) - 1)
        return (seconds[right] - seconds[right - 1]) / (axis[right] - axis[right - 1]), end

    def scaled(self, axis_by: float, seconds_by: float) -> Curve:
        """The same curve with its axis and its seconds multiplied."""
        axis = tuple(x * axis_by for x in self.axis)
        return Curve(axis, tuple(y * seconds_by for y in self.seconds))

    def segments(self) -> list[tuple[float, float, float]]:
        """`(upper end, intercept, slope)` from zero to infinity, each end above the last."""
        axis, seconds = self.axis, self.seconds
        pieces = [(axis[0], seconds[0], 0.0)]
        for x0, x1, y0, y1 in zip(axis, axis[1:], seconds, seconds[1:], strict=False):
            slope = (y1 - y0) / (x1 - x0)
            pieces.append((x1, y0 - slope * x0, slope))
        _, intercept, slope = pieces[-1]
        pieces[-1] = (inf, intercept, slope)
        return pieces


def linear(base: float, slope: float) -> Curve:
    """The curve `base + slope * x`."""
    return Curve((0.0, 1.0), (base, base + slope))


def total(curves: Iterable[Curve]) -> Curve:
    """The sum of curves, exact: its knots are the union of theirs."""
    parts = list(curves)
    axis = tuple(sorted({x for part in parts for x in part.axis})) or (0.0,)
    return Curve(axis, tuple(sum(part.at(x) for part in parts) for x in axis))


def blend(low: Curve, high: Curve, share: float) -> Curve:
    """`(1 - share) * low + share * high`, exact like `total`."""
    return total((low.scaled(1.0, 1.0 - share), high.scaled(1.0, share)))


@dataclass(frozen=True, slots=True)
class Grid:
    """Seconds over rows x columns; past the last row in proportion, past a column by its slope."""

    rows: tuple[float, ...]
    columns: tuple[float, ...]
    seconds: tuple[tuple[float, ...], ...]

    def row(self, x: float) -> Curve:
        """The curve over columns at row `x`, linear between neighbouring rows."""
        rows = self.rows
        if x <= rows[0]:
            return self._row(0)
        if x >= rows[-1]:
            return self._row(len(rows) - 1).scaled(1.0, x / rows[-1])
        high = bisect_right(rows, x)
        share = (x - rows[high - 1]) / (rows[high] - rows[high - 1])
        return blend(self._row(high - 1), self._row(high), share)

    def at(self, x: float, y: float) -> float:
        """Seconds at row `x` and column `y`."""
        return self.row(x).at(y)

    def _row(self, index: int) -> Curve:
        return Curve(self.columns, self.seconds[index])
