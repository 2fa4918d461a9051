"""Distributions of a latency: by class in one run, or run by run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from superinfer.errors import ConfigError
from superinfer.lab.pictures.data import LATENCIES, Curve, PlotData

_ALL = "all requests"


@dataclass(slots=True, frozen=True)
class LatencyCurves:
    """What a picture of one latency shows."""

    title: str
    of: str
    """What is counted, such as `share of finished requests`."""
    curves: Mapping[str, Curve]
    """Ascending values in ms and the share at or below each, by the name of its line."""
    targets: Mapping[str, float]
    """In ms."""


def latency_curves(
    data: Mapping[str, PlotData], metric: str, slo_class: str | None = None
) -> LatencyCurves:
    """One run without a class: a curve per class, with their targets; else a curve per run, over
    all requests or those of the class, and the target if all runs share it.

    Raises ConfigError for another latency than those of `LATENCIES` or a class that no run has.
    """
    check_latency(metric)
    if len(data) > 1 or slo_class is not None:
        return _by_run(data, metric, slo_class)
    (only,) = data.values()
    title, of, kind = LATENCIES[metric]
    curves = {name: only.latency_curve(name, metric) for name in only.classes()}
    found = {name: only.target_ms(name, kind) for name in curves}
    targets = {name: target for name, target in found.items() if target is not None}
    return LatencyCurves(title, of, curves, targets)


def check_latency(metric: str) -> None:
    """ConfigError for another latency than those of `LATENCIES`."""
    if metric not in LATENCIES:
        raise ConfigError(f"metric: expected one of {', '.join(LATENCIES)}, got {metric!r}")


def check_class(data: Mapping[str, PlotData], group: str) -> None:
    """ConfigError for a class that a run with requests does not have."""
    for name, each in data.items():
        known = sorted(set(each.requests["class"].tolist()))
        if group not in known and known:
            raise ConfigError(f"{name}: expected a class of {', '.join(known)}, got {group!r}")


def _by_run(data: Mapping[str, PlotData], metric: str, slo_class: str | None) -> LatencyCurves:
    title, of, kind = LATENCIES[metric]
    group = slo_class or _ALL
    shown = {name: each if slo_class else _merged(each) for name, each in data.items()}
    check_class(shown, group)
    curves = {name: each.latency_curve(group, metric) for name, each in shown.items()}
    first, *others = [each.target_ms(group, kind) for each in shown.values()]
    same = first is not None and all(other == first for other in others)
    targets = {group: first} if first is not None and same else {}
    return LatencyCurves(f"{title}: {group}", of, curves, targets)


def _merged(data: PlotData) -> PlotData:
    """The same run with all requests in one class."""
    order = np.argsort(data.itl["gap_ms"], kind="stable")
    gaps = {name: column[order] for name, column in data.itl.items()}
    requests = {**data.requests, "class": _filled(data.requests["class"])}
    return replace(data, requests=requests, itl={**gaps, "class": _filled(gaps["class"])})


def _filled(column: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.full(column.size, _ALL, dtype=object)
