"""The points of a sweep, and its peak goodput: where all rates up to one keep the targets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from superinfer.lab.config.run import RATE_SCALES
from superinfer.lab.numbers import mean_number, number
from superinfer.lab.results import Run
from superinfer.lab.studies.axes import RATE as RATE_NAME
from superinfer.lab.studies.axes import SHORT, Axis, Place

ATTAINMENT, GOODPUT = "slo_attainment", "request_goodput"
RATE = SHORT[RATE_NAME]
BEYOND = 16
"""How far outside the rates of the axis a search goes, as a factor."""
_EXACT = 1e-12


@dataclass(slots=True, frozen=True)
class Point:
    """One scheduler at one place of the grid: a run per seed."""

    arm: str
    place: Place
    runs: tuple[Run, ...]

    def value(self, metric: str) -> float | None:
        """Mean of a number of the summary over the seeds; None where a run has none."""
        return mean_number([run.summary for run in self.runs], metric)

    def range_of(self, metric: str) -> tuple[float, float] | None:
        """Smallest and largest over the seeds; None where a run has none."""
        values = [number(run.summary, metric) for run in self.runs]
        known = [value for value in values if value is not None]
        return (min(known), max(known)) if len(known) == len(values) else None


Points = Sequence[Point]
Line = list[tuple[float, Point]]
"""Places along one axis, ascending, and the points there."""


@dataclass(slots=True, frozen=True)
class Peak:
    """The largest rate up to which every rate tried keeps the targets, of an arm at a place of the
    other axes; as `bisect.largest_load`, so what keeps them above one that fails is no peak.
    """

    arm: str
    others: Place
    """Values of the axes but the rate."""
    point: Point | None
    """There; None where the smallest rate tried does not keep them."""
    rate: float | None
    bracketed: bool
    """Whether a larger rate was tried and fails, so that there is a peak and not only a bound."""
    kept_above: tuple[float, ...]
    """Rates that keep them though a smaller one fails: attainment does not simply fall with the
    rate."""


def rate_axis(axes: Sequence[Axis]) -> int | None:
    """Which axis is the arrival rate."""
    return next((at for at, axis in enumerate(axes) if axis.key == RATE), None)


def peaks(axes: Sequence[Axis], points: Points, wanted: float) -> list[Peak]:
    """The peak of every scheduler at every place of the other axes, in the order of the points;
    none without a rate among the axes, or where nobody has targets.
    """
    found = []
    for arm, others, line in lines(axes, points, rate_axis(axes)):
        known = [(rate, point) for rate, point in line if point.value(ATTAINMENT) is not None]
        if known:
            found.append(_peak(arm, others, known, wanted))
    return found


def to_refine(
    axes: Sequence[Axis], points: Points, wanted: float, tolerance: float
) -> list[tuple[str, Place]]:
    """The next rate to try for each arm at each place of the other axes: half way between the
    largest up to which all keep the targets and the next one, until these are within the tolerance,
    relative. Where all rates keep them the largest is doubled, where the smallest does not it is
    halved, as far as `BEYOND` times the ends of the axis, and as a rate may be.
    """
    at = rate_axis(axes)
    assert at is not None
    ends = [float(value) for value in axes[at].values]
    least, most = RATE_SCALES
    bounds = max(min(ends) / BEYOND, least), min(max(ends) * BEYOND, most)
    found = []
    for arm, others, line in lines(axes, points, at):
        rate = _next_rate(line, wanted, tolerance, bounds)
        if rate is not None:
            found.append((arm, (*others[:at], rate, *others[at:])))
    return found


def _next_rate(
    line: Line, wanted: float, tolerance: float, bounds: tuple[float, float]
) -> float | None:
    if all(point.value(ATTAINMENT) is None for _, point in line):
        return None
    kept = _kept(line, wanted)
    if not kept:
        smaller = line[0][0] / 2
        return smaller if smaller >= bounds[0] else None
    good = kept[-1]
    above = min((rate for rate, _ in line if rate > good), default=None)
    if above is None:
        return 2 * good if 2 * good <= bounds[1] else None
    return float(f"{(good + above) / 2:.6g}") if above - good > tolerance * good else None


def lines(
    axes: Sequence[Axis], points: Points, along: int | None
) -> Iterator[tuple[str, Place, Line]]:
    """For every arm and every place of the other axes, the points along one axis in its order."""
    if along is None:
        return
    groups: dict[tuple[str, Place], Line] = {}
    for point in points:
        others = (*point.place[:along], *point.place[along + 1 :])
        groups.setdefault((point.arm, others), []).append((_position(point, along), point))
    for (arm, others), line in groups.items():
        yield arm, others, sorted(line, key=lambda each: each[0])


def _position(point: Point, along: int) -> float:
    value = point.place[along]
    return math.nan if isinstance(value, str) else float(value)


def _keeps(point: Point, wanted: float) -> bool:
    value = point.value(ATTAINMENT)
    return value is not None and value >= wanted - _EXACT


def _kept(line: Line, wanted: float) -> list[float]:
    """The rates below the first that fails, ascending."""
    return [rate for rate, _ in takewhile(lambda each: _keeps(each[1], wanted), line)]


def _peak(arm: str, others: Place, line: Line, wanted: float) -> Peak:
    kept = _kept(line, wanted)
    rest = line[len(kept) :]
    above = tuple(rate for rate, point in rest if _keeps(point, wanted))
    if not kept:
        return Peak(arm, others, None, None, True, above)
    return Peak(arm, others, dict(line)[kept[-1]], kept[-1], bool(rest), above)
