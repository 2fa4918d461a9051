"""How several arms differ from a reference: paired differences with honest intervals.

With several seeds the differences are paired by seed. With one run per arm on the same trace they
are paired by request, and the interval says what chance in these requests can do, not what other
arrivals would give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from superinfer.errors import ConfigError
from superinfer.lab.metric_names import COMPARE_ROWS, Summary
from superinfer.lab.numbers import close_keys, has_number, mean_number, number
from superinfer.lab.results import Run
from superinfer.lab.studies.intervals import Interval, mean_interval
from superinfer.lab.studies.paired import RequestRows, interval_of, too_few

Arms = Mapping[str, Sequence[Run]]

METRICS = (*COMPARE_ROWS, "mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "p999_ttft_ms")
"""What a comparison looks at unless it is told otherwise."""


@dataclass(slots=True, frozen=True)
class Difference:
    """One metric of one arm against the reference; values are means over the seeds."""

    metric: str
    arm: str
    reference: str
    value: float | None
    """None where a run has no such number."""
    reference_value: float | None
    interval: Interval | None
    """For the difference; None where nothing honest can be said."""
    by_seed: tuple[float | None, ...]
    """The difference of each pair of runs."""
    few: bool = False
    """True for a quantile that a handful of requests make: it has no interval, and says little."""

    @property
    def difference(self) -> float | None:
        """Value less the reference's, in the metric's unit."""
        if self.value is None or self.reference_value is None:
            return None
        return self.value - self.reference_value

    @property
    def relative(self) -> float | None:
        """The difference as a share of the reference's value; None where that is 0."""
        change = self.difference
        return change / self.base if change is not None and self.base else None

    @property
    def base(self) -> float:
        """Size of the reference's value; 0 where it has none."""
        return abs(self.reference_value or 0.0)

    def as_json(self) -> dict[str, Any]:
        """Plain values, with the interval as a table or null; null and `few` where a handful of
        requests make the number.
        """
        known = self.interval
        return {
            "metric": self.metric,
            "arm": self.arm,
            "reference": self.reference,
            "value": self.value,
            "reference_value": self.reference_value,
            "difference": self.difference,
            "relative": self.relative,
            "by_seed": list(self.by_seed),
            "few": self.few,
            "interval": known
            and {
                "low": known.low,
                "high": known.high,
                "level": known.level,
                "method": known.method,
                "size": known.size,
                "contains_zero": known.contains_zero,
            },
        }


def differences(
    arms: Arms, metrics: Sequence[str] = METRICS, reference: str | None = None
) -> list[Difference]:
    """Differences of every arm from the reference (the first one), arm by arm.

    An arm is a sequence of runs in the order of seeds, the same for all arms. Metrics are keys of
    `summary.json`, also `classes.<name>.<key>` and `tenants.<name>.<key>`; a metric that no run
    has is left out. Raises ConfigError for arms that do not pair.
    """
    name, base = _reference(arms, reference)
    found = []
    for arm, runs in arms.items():
        if arm == name:
            continue
        if len(runs) != len(base):
            expected = f"expected {len(base)} runs as in {name}, got {len(runs)}"
            raise ConfigError(f"arm {arm}: {expected}")
        rows = _Pair(runs[0], base[0]) if len(runs) == 1 else None
        for metric in metrics:
            if any(number(run.summary, metric) is not None for run in (*runs, *base)):
                found.append(_difference(metric, (arm, runs), (name, base), rows))
    return found


def check_metrics(arms: Arms, metrics: Sequence[str]) -> None:
    """ConfigError for a metric that no run's summary has a place for."""
    summaries = [run.summary for runs in arms.values() for run in runs]
    for metric in metrics:
        if not any(has_number(summary, metric) for summary in summaries):
            raise _unknown(metric, {key for summary in summaries for key in summary})


def check_metric(metric: str, summary: Summary) -> None:
    """ConfigError for a metric that summaries like this one have no place for."""
    if not has_number(summary, metric):
        raise _unknown(metric, set(summary))


# -- inside ---------------------------------------------------------------------------------------


class _Pair:
    """The requests of two runs; where they are the same ones, of one trace, metrics are paired."""

    def __init__(self, run: Run, base: Run) -> None:
        one, other = RequestRows.of(run), RequestRows.of(base)
        self._known = [rows for rows in (one, other) if rows is not None]
        self._same = one is not None and other is not None and one.same_requests(other)

    def interval(self, metric: str) -> tuple[Interval | None, bool]:
        """Block bootstrap interval for the difference of a metric that requests determine, where
        both runs met the same ones; and whether either has too few for it.
        """
        found = [rows.estimate(metric) for rows in self._known]
        estimates = [estimate for estimate in found if estimate is not None]
        if self._same and len(estimates) == 2:
            return interval_of(*estimates), too_few(*estimates)
        return None, too_few(*estimates)


def _difference(
    metric: str,
    arm: tuple[str, Sequence[Run]],
    reference: tuple[str, Sequence[Run]],
    rows: _Pair | None,
) -> Difference:
    pairs = [
        (number(run.summary, metric), number(base.summary, metric))
        for run, base in zip(arm[1], reference[1], strict=True)
    ]
    by_seed = tuple(a - b if a is not None and b is not None else None for a, b in pairs)
    interval, few = (_over_seeds(by_seed), False) if rows is None else rows.interval(metric)
    value, base_value = (
        mean_number([r.summary for r in runs], metric) for _, runs in (arm, reference)
    )
    return Difference(metric, arm[0], reference[0], value, base_value, interval, by_seed, few)


def _over_seeds(by_seed: Sequence[float | None]) -> Interval | None:
    known = [value for value in by_seed if value is not None]
    return mean_interval(np.array(known)) if len(known) == len(by_seed) else None


def _reference(arms: Arms, reference: str | None) -> tuple[str, Sequence[Run]]:
    if not arms or not all(arms.values()):
        raise ConfigError("expected at least one run in every arm")
    name = next(iter(arms)) if reference is None else reference
    if name not in arms:
        raise ConfigError(f"reference {name!r}: expected one of {', '.join(arms)}")
    return name, arms[name]


def _unknown(metric: str, known: set[str]) -> ConfigError:
    expected = f"expected a number of the summary, got {metric!r}"
    return ConfigError(f"{expected}{close_keys(metric, known)}")
