"""Errors of simulated metrics: mean to P99, of all requests and of each class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, nan
from statistics import median
from typing import Any

from superinfer.settings import is_number

Summary = Mapping[str, Any]

TIMES = ("ttft", "tpot", "e2el")
STATISTICS = ("mean", "median", "p90", "p95", "p99")
COUNTS = ("completed", "steps", "preemptions", "rotations", "slo_attainment", "output_throughput")
JUDGED = {"mean": 1.0, "p99": 2.0}
"""Statistics of all requests that are held to the largest error, and to how many times it."""
EQUAL = "completed"
"""What has to be the same on both sides, whatever the largest error is."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a device and of the simulator."""

    name: str
    service_class: str
    """Empty: all requests."""
    device: float
    """NaN where one side alone has a metric that is judged, and it is the other one."""
    simulated: float

    @property
    def known(self) -> bool:
        """True if both sides have it."""
        return isfinite(self.device) and isfinite(self.simulated)

    @property
    def error(self) -> float | None:
        """How far the simulator is off, as a share; None beside a zero or beside nothing."""
        return self.simulated / self.device - 1 if self.known and self.device else None

    def row(self) -> dict[str, Any]:
        """For JSON."""
        sides = {name: getattr(self, name) for name in ("device", "simulated")}
        finite = {name: value if isfinite(value) else None for name, value in sides.items()}
        return {**asdict(self), **finite, "error": self.error}

    def limit(self, max_error: float) -> float | None:
        """The largest error that it is held to; None if it is only shown."""
        share = _judged(self.name, self.service_class)
        return None if share is None else share * max_error

    def fails(self, max_error: float) -> bool:
        """True if it is off by more than it may be, or if one side alone has it or has a zero."""
        limit = self.limit(max_error)
        if limit is None:
            return False
        if not self.known:
            return True
        if 0.0 in (self.device, self.simulated):
            return self.device != self.simulated
        return abs(self.simulated / self.device - 1) > limit


def _judged(name: str, service_class: str) -> float | None:
    """To how many times the largest error a metric is held; None if it is only shown."""
    if service_class:
        return None
    if name == EQUAL:
        return 0.0
    statistic, _, rest = name.partition("_")
    return JUDGED.get(statistic) if rest.endswith("_ms") else None


def compare(device: Summary, simulated: Summary) -> list[Metric]:
    """All metrics that both have, and those of one side that are judged."""
    found = list(_metrics("", device, simulated))
    classes = device.get("classes", {}), simulated.get("classes", {})
    for name in classes[0]:
        if name in classes[1]:
            found += _metrics(name, classes[0][name], classes[1][name])
    return found


def _metrics(service_class: str, device: Summary, simulated: Summary) -> Iterator[Metric]:
    times = [f"{statistic}_{time}_ms" for time in TIMES for statistic in STATISTICS]
    for name in (*times, *COUNTS):
        values = (side.get(name) for side in (device, simulated))
        pair = [float(value) if is_number(value) else nan for value in values]
        wanted = 1 if _judged(name, service_class) is not None else 2
        if sum(map(isfinite, pair)) >= wanted:
            yield Metric(name, service_class, *pair)


def middle(summaries: Sequence[Summary]) -> dict[str, Any]:
    """The median of each number of several runs of the same thing, tables inside tables too."""
    first = summaries[0]
    found: dict[str, Any] = {}
    for key, value in first.items():
        others = [summary.get(key) for summary in summaries]
        if isinstance(value, Mapping):
            found[key] = middle([other for other in others if isinstance(other, Mapping)])
        else:
            found[key] = _middle_of(others)
    return found


def _middle_of(values: list[Any]) -> Any:
    """The median of numbers, None where some runs lack it, and the first of anything else."""
    numbers = [value for value in values if is_number(value)]
    if len(numbers) == len(values):
        return median(numbers)
    return None if numbers else values[0]


def extent(summaries: Sequence[Summary], name: str) -> tuple[float, float] | None:
    """Smallest and largest of a number over those runs of the same thing that have it; None without
    any.
    """
    values = [float(value) for summary in summaries if is_number(value := summary.get(name))]
    return (min(values), max(values)) if values else None


def lines(metrics: list[Metric], max_error: float | None) -> Iterator[str]:
    """A table; what is off by more than it may be is marked, and rows of a class that say what
    those of the whole run say are left out.
    """
    whole = {each.name: (each.device, each.simulated) for each in metrics if not each.service_class}
    yield f"{'':10} {'metric':18} {'device':>12} {'simulated':>12} {'error':>8}"
    for metric in metrics:
        if metric.service_class and whole.get(metric.name) == (metric.device, metric.simulated):
            continue
        error = "" if metric.error is None else f"{metric.error:+8.1%}"
        mark = "  !" if max_error is not None and metric.fails(max_error) else ""
        sides = (
            f"{value:12.4g}" if isfinite(value) else f"{'-':>12}"
            for value in (metric.device, metric.simulated)
        )
        yield f"{metric.service_class:10} {metric.name:18} {' '.join(sides)} {error:>8}{mark}"
