"""Who was hurt most: requests by how far they missed their targets, by stalls and by group.

A request's factor is the largest of measured over target (TTFT, TPOT, E2E), or of wanted over given
tokens/s. Targets are those that all requests of a class share; a request with targets of its own
cannot be ranked, and is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from superinfer.lab.pictures.data import PlotData
from superinfer.lab.report.values import TARGETS
from superinfer.records.run import Floats

KINDS = tuple(TARGETS)


@dataclass(slots=True)
class Miss:
    """A finished request that missed a target, and by how much."""

    row: int
    kind: str
    """The target of `KINDS` that it missed by the largest factor."""
    measured: float
    target: float
    factor: float


@dataclass(slots=True)
class Group:
    """The requests of one class and tenant; every value but the counts may be NaN."""

    slo_class: str
    tenant: str
    requests: int
    with_slo: int
    missed: int
    median_factor: float
    """Of the finished requests that missed."""
    worst_stall_ms: float
    queue_missed_s: float
    """Mean wait for the first schedule of those that missed."""
    queue_met_s: float
    preempted: int


@dataclass(slots=True)
class Hurt:
    """The answer for one run."""

    misses: list[Miss]
    """Finished requests, worst first."""
    unranked: int
    """Finished requests that missed targets which their class does not share."""
    groups: list[Group]
    """By class and tenant, most misses first."""


def who_was_hurt(data: PlotData) -> Hurt:
    """Rank the measured requests of a run."""
    factors, measured, targets = _factors(data)
    worst = factors.max(axis=0)
    missed = data.measured() & (data.requests["slo_met"] == False)  # noqa: E712 (None is neither)
    finished = data.requests["state"] == "finished"
    ranked = np.flatnonzero(missed & finished & (worst > 1))
    ranked = ranked[np.argsort(-worst[ranked], kind="stable")]
    kinds = factors.argmax(axis=0)
    misses = [
        Miss(row, KINDS[kind], measured[kind, row], targets[kind, row], worst[row])
        for row, kind in zip(ranked.tolist(), kinds[ranked].tolist(), strict=True)
    ]
    unranked = int(np.count_nonzero(missed & finished)) - len(misses)
    return Hurt(misses, unranked, list(_groups(data, missed, worst)))


def longest_stalls(data: PlotData, most: int) -> list[int]:
    """Rows of the requests with the longest gap between two tokens, longest first."""
    stall = np.where(data.measured(), data.requests["max_itl_ms"], np.nan)
    known = np.flatnonzero(~np.isnan(stall))
    worst: list[int] = known[np.argsort(-stall[known], kind="stable")][:most].tolist()
    return worst


def endings(data: PlotData) -> list[tuple[str, str, str, int]]:
    """State, rule, class and number of the requests that did not finish, most first."""
    table, rows = data.requests, np.flatnonzero(data.measured())
    columns = (table[name][rows].tolist() for name in ("state", "reject_reason", "class"))
    found = Counter(zip(*columns, strict=True))
    ends = [(s, rule or "", c, n) for (s, rule, c), n in found.items() if s != "finished"]
    return sorted(ends, key=lambda end: (-end[3], *end[:3]))


def miss_factors(data: PlotData) -> Floats:
    """Per request the largest factor by which it misses a target that its class shares: 1 and less
    is in time, infinity did not finish, NaN has no such target.
    """
    factors, _, targets = _factors(data)
    worst = np.where(data.requests["state"] == "finished", factors.max(axis=0), np.inf)
    return np.where(np.isnan(targets).all(axis=0), np.nan, worst)


def _factors(data: PlotData) -> tuple[Floats, Floats, Floats]:
    """Factor, measured value and target of each request, one row per kind; 0 where unknown."""
    table = data.requests
    seconds = table["e2el_ms"] / 1e3
    given = np.divide(
        table["output_tokens"], seconds, out=np.full(seconds.size, np.nan), where=seconds > 0
    )
    measured = np.array([table["ttft_ms"], table["tpot_ms"], table["e2el_ms"], given], np.float64)
    by_class = {name: data.targets(name) for name in set(table["class"].tolist())}
    targets = np.array(
        [[by_class[name].get(kind) or np.nan for name in table["class"]] for kind in KINDS],
        np.float64,
    )
    factors = measured / targets
    factors[3] = 1 / factors[3]
    return np.nan_to_num(factors, nan=0.0), measured, targets


def _groups(data: PlotData, missed: Any, worst: Floats) -> Iterator[Group]:
    table = data.requests
    keys = list(zip(table["class"].tolist(), table["tenant"].tolist(), strict=True))
    rows_of: dict[tuple[str, str], list[int]] = {}
    for row in np.flatnonzero(data.measured()).tolist():
        rows_of.setdefault(keys[row], []).append(row)
    found = [_group(data, key, np.array(rows), missed, worst) for key, rows in rows_of.items()]
    yield from sorted(found, key=lambda g: (-g.missed, g.slo_class, g.tenant))


def _group(data: PlotData, key: tuple[str, str], rows: Any, missed: Any, worst: Floats) -> Group:
    table = data.requests
    lost, met = rows[missed[rows]], rows[table["slo_met"][rows] == True]  # noqa: E712
    return Group(
        *key,
        requests=rows.size,
        with_slo=lost.size + met.size,
        missed=lost.size,
        median_factor=_reduced(np.median, worst[lost][worst[lost] > 1]),
        worst_stall_ms=_reduced(np.max, table["max_itl_ms"][rows]),
        queue_missed_s=_reduced(np.mean, table["queue_s"][lost]),
        queue_met_s=_reduced(np.mean, table["queue_s"][met]),
        preempted=int(np.count_nonzero(table["preemptions"][rows])),
    )


def _reduced(how: Any, values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(how(known)) if known.size else float("nan")
