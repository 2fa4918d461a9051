"""How far a metric is from that of a reference, and which way that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from superinfer.lab.metric_names import SAME, higher_is_better, is_share
from superinfer.settings import is_number

if TYPE_CHECKING:
    from superinfer.lab.studies.intervals import Interval

POINTS, PER_CENT = "points", "%"
_GIB = 2.0**30


@dataclass(slots=True, frozen=True)
class Amount:
    """A number in a unit of differences."""

    value: float
    unit: str
    """`points` of a share, `%` of the reference, `GiB`, or empty: the one in the metric's name."""


@dataclass(slots=True, frozen=True)
class Change:
    """A difference from the reference."""

    amount: Amount
    verdict: str
    """`better`, `worse`, `same`; `unclear` if the interval of the difference holds zero, or if it
    is one of a quantile that a handful of requests make."""
    bounds: tuple[Amount, Amount] | None = None


def change(
    key: str,
    value: float | str | None,
    base: float | str | None,
    interval: Interval | None = None,
    few: bool = False,
) -> Change | None:
    """The difference of a metric from the reference; None where one of them is no number.

    Shares differ in percentage points, all else in per cent of the reference, or in its own unit
    where the reference is zero. `interval` bounds the difference in the metric's own unit, and is
    told in it where it reaches below what can be lost. `few`: as of a `Difference`.
    """
    if not (is_number(value) and is_number(base)):
        return None
    factor, unit = _relative_unit(key, base)
    amount = factor * (value - base)
    ends = (interval.low, interval.high) if interval else ()
    if max(abs(amount), *(abs(factor * end) for end in ends), 0.0) < SAME:
        return Change(Amount(amount, unit), "same")
    verdict = "better" if (amount > 0) == higher_is_better(key) else "worse"
    if interval is None:
        return Change(Amount(amount, unit), "unclear" if few else verdict)
    if interval.contains_zero:
        verdict = "unclear"
    of_ends, unit_of_ends = factor, unit
    if not is_share(key) and interval.low < -abs(base):
        of_ends, unit_of_ends = _own_unit(key)
    low, high = (Amount(of_ends * end, unit_of_ends) for end in (interval.low, interval.high))
    return Change(Amount(amount, unit), verdict, (low, high))


def _relative_unit(key: str, base: float) -> tuple[float, str]:
    """Factor from the metric's own unit to the unit of its differences, and that unit."""
    if is_share(key):
        return 100.0, POINTS
    if base:
        return 100 / abs(base), PER_CENT
    return _own_unit(key)


def _own_unit(key: str) -> tuple[float, str]:
    """As a metric itself is shown; that times are in ms stands in its name. Counts stay whole."""
    return (1 / _GIB, "GiB") if key.endswith("_bytes") else (1, "")
