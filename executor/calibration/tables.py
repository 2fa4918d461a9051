"""Measured points as the tables of a profile: never falling along an axis, with held-out errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from executor.calibration.filling import RowWork, Work, fill_curve, fill_grid
from executor.calibration.timing import Deadline, Timing
from superinfer.costs.profile import Kernel
from superinfer.costs.tables import Curve, Grid

Axes = Mapping[str, Sequence[int]]
AtPoint = Callable[[int], Timing]
AtPlace = Callable[[int, int], Timing]


@dataclass(slots=True)
class Family:
    """One kernel of a profile, and how it was measured."""

    kernel: Kernel
    points: int
    spread: float
    """Median over the points of the distance of quartiles, as a share."""
    measured: tuple[int, ...]
    """Points of the first axis that were; the table's others are filled in (`filling`)."""
    errors: list[float] = field(default_factory=list)
    """Of points that are not in the table, as a share."""
    range: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Where measuring ended, if not at the end of the table."""

    def fit(self) -> dict[str, float | None]:
        """Its entry under `fit`."""
        mean = sum(self.errors) / len(self.errors) if self.errors else None
        return {
            "heldout_mape": mean,
            "heldout_points": len(self.errors),
            "points": self.points,
            "spread": self.spread,
        }


def ends_first(count: int) -> list[int]:
    """Indices in an order in which any beginning covers the whole: ends, middle, quarters…"""
    if count <= 2:
        return list(range(count))
    order, step = [0, count - 1], 1 << (count - 1).bit_length()
    while step > 1:
        step //= 2
        order += [i for i in range(step, count - 1, step) if i not in order]
    return order


def never_falling(values: Sequence[float]) -> list[float]:
    """The non-decreasing sequence nearest to `values` (pool adjacent violators)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, n), (b, m) = pools[-2:]
            pools[-2:] = [((a * n + b * m) / (n + m), n + m)]
    return [value for value, count in pools for _ in range(count)]


def measure_curve(
    axis: Sequence[int], name: str, at: AtPoint, deadline: Deadline, work: Work | None = None
) -> Family:
    """A table over one axis; once the time is over its points get fewer, but not below two. With
    `work`, those that the time left out are filled in.
    """
    found: dict[int, Timing] = {}
    for index in ends_first(len(axis)):
        if len(found) < 2 or not deadline.over:
            found[axis[index]] = at(axis[index])
    points = sorted(found)
    seconds = never_falling([found[point].seconds for point in points])
    kernel = Kernel({name: tuple(map(float, points))}, tuple(seconds))
    filled = fill_curve(kernel, axis, work) if work else kernel
    return Family(filled, len(points), _spread(list(found.values())), tuple(points))


def measure_grid(
    axes: Axes, at: AtPlace, deadline: Deadline, most: float = math.inf, work: RowWork | None = None
) -> Family:
    """A table over two axes, row by row. With `work`, rows that the time left out are filled in.

    A place whose product is above `most` is not measured: it goes on by the last slope of its row,
    or where its row has but one point in proportion to the row before.
    """
    (row_name, rows), (column_name, columns) = axes.items()
    table: dict[int, list[float]] = {}
    timings: list[Timing] = []
    for index in ends_first(len(rows)):
        row = rows[index]
        if len(table) >= 2 and deadline.over:
            break
        measured: list[float] = []
        for column in columns:
            if row * column > most and len(measured) >= 2:
                break
            timings.append(at(row, column))
            measured.append(timings[-1].seconds)
        table[row] = _lengthened(measured, columns)
    kept = sorted(table)
    seconds = _monotone(np.array([table[row] for row in kept]))
    kernel = Kernel(
        {row_name: tuple(map(float, kept)), column_name: tuple(map(float, columns))},
        tuple(tuple(map(float, line)) for line in seconds),
    )
    filled = fill_grid(kernel, rows, work) if work else kernel
    return Family(filled, len(timings), _spread(timings), tuple(kept))


def joined(parts: Sequence[Family]) -> Family:
    """One table over an axis, of those of its stretches, in order. It may fall from one to the
    next, where steps begin to launch something else.
    """
    if len(parts) == 1:
        return parts[0]
    (name,) = parts[0].kernel.axes
    axis = tuple(x for part in parts for x in part.kernel.axes[name])
    seconds = tuple(float(x) for part in parts for x in part.kernel.seconds or ())
    points = [part.points for part in parts]
    spread = float(np.average([part.spread for part in parts], weights=points))
    measured = tuple(x for part in parts for x in part.measured)
    return Family(Kernel({name: axis}, seconds), sum(points), spread, measured)


def middle(families: Sequence[Family]) -> Family:
    """One kernel that was measured some times: medians over those that have the most points."""
    if len(families) == 1:
        return families[0]
    most = max(families, key=lambda family: family.points)
    alike = [family for family in families if family.measured == most.measured]
    table = np.median([np.array(family.kernel.seconds) for family in alike], axis=0)
    one = table.ndim == 1
    seconds = tuple(table.tolist()) if one else tuple(map(tuple, table.tolist()))
    errors = [error for family in families for error in family.errors]
    spread = float(np.median([family.spread for family in families]))
    kernel = replace(most.kernel, seconds=seconds)
    return Family(kernel, most.points, spread, most.measured, errors, most.range)


def _lengthened(measured: list[float], columns: Sequence[int]) -> list[float]:
    done = len(measured)
    slope = (measured[-1] - measured[-2]) / (columns[done - 1] - columns[done - 2])
    last, end = measured[-1], columns[done - 1]
    return measured + [last + max(0.0, slope) * (column - end) for column in columns[done:]]


def _monotone(table: np.ndarray) -> np.ndarray:
    for _ in range(2):
        table = np.array([never_falling(row) for row in table])
        table = np.array([never_falling(column) for column in table.T]).T
    return np.maximum.accumulate(np.maximum.accumulate(table, axis=0), axis=1)


def _spread(timings: list[Timing]) -> float:
    return float(np.median([timing.spread for timing in timings]))


def read(kernel: Kernel, *place: float) -> float:
    """Seconds of a table at a point, as the cost model reads them."""
    axes = list(kernel.axes.values())
    if len(axes) == 1:
        return Curve(axes[0], kernel.seconds or ()).at(place[0])
    return Grid(axes[0], axes[1], kernel.seconds or ()).at(*place)


def hold_out(family: Family, places: Sequence[tuple[int, ...]], at: Callable[..., Timing]) -> None:
    """Measure points that the table does not hold, and book how far it is off there. What launches
    nothing at a place takes no time there, and is off by no share of it.
    """
    for place in places:
        if measured := at(*place).seconds:
            family.errors.append(abs(read(family.kernel, *place) / measured - 1))
