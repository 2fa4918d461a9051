"""Who was hurt most, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from superinfer.lab.pictures.data import PlotData
from superinfer.lab.report.html import Content, Html, table, tag
from superinfer.lab.report.hurt import Hurt, Miss, longest_stalls, who_was_hurt
from superinfer.lab.report.values import NONE, number, unbroken

_MOST_MISSES, _MOST_STALLS, _MOST_GROUPS = 20, 10, 30
_KIND_NAMES = {
    "ttft_ms": "TTFT",
    "tpot_ms": "TPOT",
    "e2el_ms": "E2E",
    "min_tokens_per_s": "tokens/s",
}

_FATE = {
    "arrival_s": "arrival (s)",
    "queue_s": "queue (s)",
    "input_tokens": "prompt tokens",
    "output_tokens": "output tokens",
    "preemptions": "preemptions",
    "rotations": "rotations",
    "recomputed_tokens": "recomputed tokens",
}
"""Columns of what happened to a request, with their titles."""


def hurt_parts(data: PlotData) -> list[Content]:
    """Tables of misses, by request and by group, and of stalls; nothing where nobody was hurt."""
    hurt = who_was_hurt(data)
    found: list[Content] = []
    if hurt.misses:
        found.append(_misses_table(data, hurt.misses[:_MOST_MISSES]))
        found.append(tag("p", _misses_note(hurt), class_="note"))
    elif hurt.unranked:
        found.append(tag("p", _misses_note(hurt)))
    elif data.summary.get("slo_attainment") is not None:
        found.append(tag("p", "Every finished request met its targets."))
    if any(group.missed for group in hurt.groups):
        found.append(_groups_table(hurt))
    rows = longest_stalls(data, _MOST_STALLS)
    if rows:
        found.append(_stalls_table(data, rows))
    return found


def _misses_table(data: PlotData, misses: Sequence[Miss]) -> Html:
    head = ("request", "class", "tenant", "target missed", "missed by", *_FATE.values())
    rows = []
    for miss in misses:
        missed = (missed_words(miss), times_words(miss.factor))
        rows.append((*_who(data, miss.row), *missed, *_fate(data, miss.row)))
    caption = "Finished requests that missed a target by the largest factor"
    return table(caption, head, rows, words=4)


def missed_words(miss: Miss) -> str:
    """What was measured, and what was wanted."""
    unit = "" if miss.kind == "min_tokens_per_s" else " ms"
    measured = unbroken(f"{_KIND_NAMES[miss.kind]} {number(miss.measured)}{unit}")
    return f"{measured}, {unbroken(f'target {number(miss.target)}{unit}')}"


def times_words(factor: float) -> str:
    """A factor as it is written in tables."""
    return f"\N{MULTIPLICATION SIGN}{number(factor)}"


def _misses_note(hurt: Hurt) -> str:
    total = len(hurt.misses)
    words = f"{min(total, _MOST_MISSES):,} of {total:,} that finished and missed a target."
    if hurt.unranked:
        words += f" {hurt.unranked:,} more missed targets of their own, which are not ranked."
    return words


def _stalls_table(data: PlotData, rows: Sequence[int]) -> Html:
    head = ("request", "class", "tenant", "longest stall (ms)", *_FATE.values())
    stall = data.requests["max_itl_ms"]
    body = [(*_who(data, row), number(float(stall[row])), *_fate(data, row)) for row in rows]
    return table("Longest stalls: waits between two tokens", head, body, words=3)


def _who(data: PlotData, row: int) -> list[str]:
    return [str(data.requests[name][row]) for name in ("request_id", "class", "tenant")]


def _fate(data: PlotData, row: int) -> list[str]:
    """What happened to a request."""
    return [number(data.requests[name][row].item()) for name in _FATE]


def _groups_table(hurt: Hurt) -> Html:
    head = (
        *("class", "tenant", "requests", "with an SLO", "missed", "missed (%)"),
        *("median of missed by", "mean queue, missed (s)", "mean queue, met (s)"),
        *("preempted", "worst stall (ms)"),
    )
    rows = [
        (
            group.slo_class,
            group.tenant,
            number(group.requests),
            number(group.with_slo),
            number(group.missed),
            number(100 * group.missed / group.with_slo),
            NONE if isnan(group.median_factor) else times_words(group.median_factor),
            number(group.queue_missed_s),
            number(group.queue_met_s),
            number(group.preempted),
            number(group.worst_stall_ms),
        )
        for group in hurt.groups[:_MOST_GROUPS]
        if group.missed
    ]
    left = sum(1 for group in hurt.groups if group.missed) - len(rows)
    caption = "Misses by class and tenant" + (f" ({left} smaller ones left out)" if left else "")
    return table(caption, head, rows, words=2)
