"""Errors of simulated metrics: mean to P99, of all requests and of each class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

Summary = Mapping[str, Any]

TIMES = ("ttft", "tpot", "e2el")
STATISTICS = ("mean", "median", "p90", "p95", "p99")
COUNTS = ("completed", "preemptions", "rotations", "slo_attainment", "output_throughput")
JUDGED = {"mean": 1.0, "p99": 2.0}
"""Statistics of all requests that are held to the largest error, and to how many times it."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a device and of the simulator."""

    name: str
    service_class: str
    """Empty: all requests."""
    device: float
    simulated: float

    @property
    def error(self) -> float | None:
        """How far the simulator is off, as a share; None beside a zero."""
        return self.simulated / self.device - 1 if self.device else None

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "error": self.error}

    def limit(self, max_error: float) -> float | None:
        """The largest error that it is held to; None if it is only shown."""
        statistic, _, rest = self.name.partition("_")
        if self.service_class or statistic not in JUDGED or not rest.endswith("_ms"):
            return None
        return JUDGED[statistic] * max_error

    def fails(self, max_error: float) -> bool:
        """True if it is off by more than it may be."""
        limit = self.limit(max_error)
        return limit is not None and self.error is not None and abs(self.error) > limit


def compare(device: Summary, simulated: Summary) -> list[Metric]:
    """All metrics that both have."""
    found = list(_metrics("", device, simulated))
    classes = device.get("classes", {}), simulated.get("classes", {})
    for name in classes[0]:
        if name in classes[1]:
            found += _metrics(name, classes[0][name], classes[1][name])
    return found


def _metrics(service_class: str, device: Summary, simulated: Summary) -> Iterator[Metric]:
    times = [f"{statistic}_{time}_ms" for time in TIMES for statistic in STATISTICS]
    for name in (*times, *COUNTS):
        pair = device.get(name), simulated.get(name)
        if all(isinstance(value, int | float) for value in pair):
            yield Metric(name, service_class, float(pair[0] or 0), float(pair[1] or 0))


def middle(summaries: Sequence[Summary]) -> dict[str, Any]:
    """The median of each number of several runs of the same thing, tables inside tables too."""
    first = summaries[0]
    found: dict[str, Any] = {}
    for key, value in first.items():
        others = [summary.get(key) for summary in summaries]
        if isinstance(value, Mapping):
            found[key] = middle([other for other in others if isinstance(other, Mapping)])
        elif _numbers(others):
            found[key] = median(others)  # type: ignore[type-var]
        else:
            found[key] = value
    return found


def _numbers(values: list[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def spread(summaries: Sequence[Summary], name: str) -> float:
    """Largest less smallest of a number over runs of the same thing, as a share of the median."""
    values = [float(summary[name]) for summary in summaries]
    centre = median(values)
    return (max(values) - min(values)) / centre if centre else 0.0


def lines(metrics: list[Metric], max_error: float | None) -> Iterator[str]:
    """A table; what is off by more than it may be is marked."""
    yield f"{'':10} {'metric':18} {'device':>12} {'simulated':>12} {'error':>8}"
    for metric in metrics:
        error = "" if metric.error is None else f"{metric.error:+8.1%}"
        mark = "  !" if max_error is not None and metric.fails(max_error) else ""
        yield (
            f"{metric.service_class:10} {metric.name:18} {metric.device:12.4g} "
            f"{metric.simulated:12.4g} {error:>8}{mark}"
        )
