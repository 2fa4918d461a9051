"""Who was hurt most in a comparison: misses by run, and requests that fared worse elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from superinfer.lab.pictures.data import PlotData
from superinfer.lab.report.html import Content, Html, table, tag
from superinfer.lab.report.hurt import Hurt, who_was_hurt
from superinfer.lab.report.hurt_section import missed_words, times_words
from superinfer.lab.report.values import NONE, number

_MOST_MISSES = 5
_MET, _MISSED = True, False

Outcomes = Mapping[str, tuple[int, Any]]
"""Row of each measured request, and whether it met its SLO (None: it has none), by its id."""


def compared_hurt_parts(runs: Mapping[str, PlotData]) -> list[Content]:
    """Tables of misses by run, of changed outcomes and of the worst requests of each run."""
    if all(data.summary.get("slo_attainment") is None for data in runs.values()):
        return []
    hurt = {name: who_was_hurt(data) for name, data in runs.items()}
    found: list[Content] = [_misses(runs, hurt)]
    outcomes = {name: _outcomes(data) for name, data in runs.items()}
    rows = list(_changes(runs, outcomes))
    reference = next(iter(runs))
    if rows:
        head = ("run", "class", "requests", "met in both", "gained", "lost", "missed in both")
        found.append(table(f"Requests against {reference}", head, rows, words=2))
        note = f"Gained: met its SLO here and not in {reference}; lost: the other way round."
        found.append(tag("p", note, class_="note"))
    worst = [row for name in runs for row in _worst(name, runs, hurt[name], outcomes)]
    if worst:
        found.append(_worst_table(reference, worst))
    return found


def _misses(runs: Mapping[str, PlotData], hurt: Mapping[str, Hurt]) -> Html:
    head = (
        *("run", "with an SLO", "missed", "of them not finished"),
        *("median of missed by", "worst missed by", "longest stall (ms)"),
    )
    rows = []
    for name, data in runs.items():
        groups, factors = hurt[name].groups, [miss.factor for miss in hurt[name].misses]
        missed = sum(group.missed for group in groups)
        counts = (sum(group.with_slo for group in groups), missed)
        rest = missed - len(factors) - hurt[name].unranked
        known = (times_words(float(np.median(factors))), times_words(factors[0])) if factors else ()
        stall = number(data.summary.get("worst_stall_ms"))
        rows.append((name, *map(number, (*counts, rest)), *(known or (NONE, NONE)), stall))
    return table("Requests that missed their SLO, by run", head, rows)


def _outcomes(data: PlotData) -> Outcomes:
    rows = np.flatnonzero(data.measured())
    ids, met = data.requests["request_id"][rows].tolist(), data.requests["slo_met"][rows].tolist()
    return {name: (row, m) for name, row, m in zip(ids, rows.tolist(), met, strict=True)}


def _changes(
    runs: Mapping[str, PlotData], outcomes: Mapping[str, Outcomes]
) -> Iterator[Sequence[Content]]:
    """Per run and class, what became of the requests that both it and the reference measured."""
    reference, *others = runs
    classes = runs[reference].requests["class"]
    for name in others:
        counts: Counter[tuple[str, Any, Any]] = Counter()
        for request, (row, base) in outcomes[reference].items():
            _, met = outcomes[name].get(request, (0, None))
            if base is not None and met is not None:
                counts[classes[row], base, met] += 1
        for group in sorted({key[0] for key in counts}):
            pairs = ((_MET, _MET), (_MISSED, _MET), (_MET, _MISSED), (_MISSED, _MISSED))
            found = [counts[group, *pair] for pair in pairs]
            yield (name, group, *map(number, (sum(found), *found)))


def _worst(
    name: str, runs: Mapping[str, PlotData], hurt: Hurt, outcomes: Mapping[str, Outcomes]
) -> Iterator[Sequence[Content]]:
    """The worst misses of one run, and how the same requests fared in the reference."""
    data, reference = runs[name].requests, next(iter(runs))
    base = runs[reference].requests
    for miss in hurt.misses[:_MOST_MISSES]:
        who = [str(data[key][miss.row]) for key in ("request_id", "class", "tenant")]
        row, met = outcomes[reference].get(who[0], (0, None))
        there = NONE if met is None else "met" if met else _how_missed(base, row)
        ends = [_seconds(data, miss.row), NONE if met is None else _seconds(base, row)]
        yield (name, *who, missed_words(miss), there, times_words(miss.factor), *ends)


def _how_missed(table_: Mapping[str, Any], row: int) -> str:
    state = str(table_["state"][row])
    return "missed" if state == "finished" else state


def _seconds(table_: Mapping[str, Any], row: int) -> str:
    return number(float(table_["e2el_ms"][row]) / 1e3)


def _worst_table(reference: str, rows: Sequence[Sequence[Content]]) -> Html:
    head = (
        *("run", "request", "class", "tenant", "target missed", f"in {reference}", "missed by"),
        *("E2E (s)", f"E2E in {reference} (s)"),
    )
    caption = "Finished requests that missed a target by the largest factor, in each run"
    return table(caption, head, rows, words=6)
