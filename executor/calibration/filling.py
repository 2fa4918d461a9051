"""Points of a table that there was no time to measure, out of its neighbours and the work they are.

A straight line between two far points is wrong where the work does not grow in proportion to the
axis: attention of a chunk of a prompt grows with its square. So a point in between takes what a
guide says, flat until the work dominates, times how far measured points are from that guide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from superinfer.costs.profile import Kernel

ROUNDING = 1e-9
"""Share of a time by which factors that come and go may have let it fall."""
Work = Callable[[np.ndarray], np.ndarray]
"""Work at points of an axis, in any unit; growing, and above 0."""
RowWork = Callable[[np.ndarray, float], np.ndarray]
"""The same at rows of a grid, in one of its columns."""


def prefill_work(tokens: np.ndarray, context: float) -> np.ndarray:
    """Pairs of queries and keys of a chunk of `tokens` after `context` tokens: of itself each token
    sees about half.
    """
    return tokens * (context + tokens / 2)


def row_work(rows: np.ndarray) -> np.ndarray:
    """Of a kernel that does the same for every row: few rows take as long as one, because weights
    are read or it is launched, and many are bound by their number.
    """
    return rows


def fill_curve(kernel: Kernel, points: Sequence[float], work: Work) -> Kernel:
    """A table over one axis with those of `points` that it lacks between its ends, as `fill_grid`
    does it.

    Where it falls, tables of different launches meet (`tables.joined`): each is filled by itself.
    """
    ((name, known),) = kernel.axes.items()
    seconds, axis, filled = np.array(kernel.seconds), list[float](), list[float]()
    falls = (np.flatnonzero(np.diff(seconds) < -ROUNDING * seconds[:-1]) + 1).tolist()
    for start, stop in pairwise([0, *falls, len(known)]):
        stretch = _axis(known[start:stop], points)
        axis += stretch
        filled += _filled(known[start:stop], seconds[start:stop], stretch, work).tolist()
    if tuple(axis) == tuple(known):
        return kernel
    return replace(kernel, axes={name: tuple(axis)}, seconds=tuple(filled))


def fill_grid(kernel: Kernel, rows: Sequence[float], work: RowWork) -> Kernel:
    """A grid [measured rows, columns] with those of `rows` that it lacks between its ends.

    What it holds stays, in seconds bit for bit; it must not fall along an axis, and then neither
    does the outcome.
    """
    (row_name, known), (column_name, columns) = kernel.axes.items()
    axis = _axis(known, rows)
    if axis == known:
        return kernel

    def in_column(column: float) -> Work:
        return lambda points: work(points, column)

    table = np.array(kernel.seconds).T
    filled = [
        _filled(known, seconds, axis, in_column(column))
        for column, seconds in zip(columns, table, strict=True)
    ]
    full = np.maximum.accumulate(np.column_stack(filled), axis=1)
    axes = {row_name: axis, column_name: columns}
    return replace(kernel, axes=axes, seconds=tuple(map(tuple, full.tolist())))


def _axis(known: Sequence[float], wanted: Sequence[float]) -> tuple[float, ...]:
    inner = {float(x) for x in wanted if known[0] < x < known[-1]}
    return tuple(sorted(inner | set(known)))


def _filled(
    known: Sequence[float], seconds: np.ndarray, axis: Sequence[float], work: Work
) -> np.ndarray:
    """Seconds at all points of `axis`, given those at `known` points of it, both ends included.

    Between them the ratio of seconds to the guide is linear in the logarithm of the axis. No point
    is outside what its neighbours measured, so that a measured one is itself.
    """
    where, points = np.array(known), np.array(axis)
    if not seconds.any():  # nothing is launched there
        return np.zeros(len(points))

    def guide(x: np.ndarray) -> np.ndarray:
        dominated: np.ndarray = seconds[-1] * work(x) / work(where[-1])
        return dominated.clip(min=seconds[0])

    ratio = np.interp(np.log(points), np.log(where), seconds / guide(where))
    left = np.searchsorted(where, points, side="right") - 1
    right = np.searchsorted(where, points)
    found = np.clip(guide(points) * ratio, seconds[left], seconds[right])
    never_falling: np.ndarray = np.maximum.accumulate(found)
    return never_falling
