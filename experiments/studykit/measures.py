"""Numbers of an arm over its seeds, and paired differences of arms, as all studies store them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.tables import parts
from superinfer.lab.numbers import mean_number, number
from superinfer.lab.results import Run
from superinfer.lab.studies.differences import Difference, differences
from superinfer.lab.studies.intervals import mean_interval

Numbers = dict[str, Any]


@dataclass(slots=True, frozen=True)
class Measure:
    """A number of a summary and how a table shows it."""

    key: str
    title: str
    scale: float = 1.0
    digits: int = 0

    def text(self, value: float | None) -> str:
        """The number as a cell of a table."""
        return parts.number(value, self.digits, self.scale)

    def mean(self, numbers: Mapping[str, Any]) -> str:
        """The mean over the seeds as a cell, out of all numbers of an arm."""
        return self.text(numbers[self.key]["mean"])


def numbers_of(runs: Sequence[Run], keys: Sequence[str]) -> dict[str, Numbers]:
    """Mean, values by seed and interval of the mean of each measure."""
    return {key: _numbers(runs, key) for key in keys}


def paired(
    arms: Mapping[str, Sequence[Run]], reference: str, keys: Sequence[str]
) -> dict[str, dict[str, Numbers]]:
    """Differences of every arm from the reference, by arm and measure."""
    found: dict[str, dict[str, Numbers]] = {}
    for each in differences(arms, keys, reference):
        found.setdefault(each.arm, {})[each.metric] = _difference(each)
    return found


# -- inside ---------------------------------------------------------------------------------------


def _numbers(runs: Sequence[Run], key: str) -> Numbers:
    values = [number(run.summary, key) for run in runs]
    known = [value for value in values if value is not None]
    interval = mean_interval(np.array(known, float)) if len(known) == len(values) else None
    return {
        "mean": mean_number([run.summary for run in runs], key),
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "by_seed": values,
    }


def _difference(found: Difference) -> Numbers:
    interval, base = found.interval, found.base or None
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {
        "difference": found.difference,
        "low": low,
        "high": high,
        "relative": found.relative,
        "relative_low": None if low is None or base is None else low / base,
        "relative_high": None if high is None or base is None else high / base,
    }
