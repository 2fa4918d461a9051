"""Tables for the terminal: one run, or several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from superinfer.lab.metric_names import (
    COMPARE_ROWS,
    LATENCIES,
    SAME,
    higher_is_better,
    is_share,
)
from superinfer.lab.precision import PRECISION, precision_text, shown_precision

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from superinfer.lab.studies.differences import Difference

Summary = Mapping[str, Any]
Value = float | str | None
"""A number, a word where there is none (`unmeasured`), or nothing."""

_STATISTICS = ("mean", "median", "p90", "p99", "p999")
_RUN_ROWS = {
    "submitted": "requests submitted",
    "completed": "completed",
    "rejected": "rejected",
    "failed": "failed",
    "duration": "duration (s)",
    "slo_attainment": "SLO attainment (%)",
    "request_throughput": "requests/s",
    "request_goodput": "goodput (requests/s)",
    "output_throughput": "output tokens/s",
    "token_goodput": "goodput (tokens/s)",
    "preemptions": "preemptions",
    "rotations": "rotations",
    "recompute_tax": "recompute tax (%)",
    "prefix_hit_rate": "prefix hits (%)",
    "peak_kv_bytes": "peak KV (GiB)",
    "h2d_bytes": "host to device (GiB)",
    "d2h_bytes": "device to host (GiB)",
    "worst_stall_ms": "worst stall (ms)",
    "worst_wait_ms": "worst wait (ms)",
    "jain_index": "Jain index",
    "vtc_gap": "VTC gap (tokens)",
    "wall_s": "wall time (s)",
}
_WIDE_ROWS = (
    "slo_attainment",
    "request_goodput",
    "output_throughput",
    "median_ttft_ms",
    "p99_ttft_ms",
    "p99_tpot_ms",
    "p99_e2el_ms",
    "worst_stall_ms",
    "rejected",
)
"""What is shown of many runs, which stand in rows then."""
_MOST_COLUMNS = 6


def summary_table(summary: Summary) -> Group:
    """Counts and rates, latency quantiles in ms, and one row per class; where any request had fewer
    than 16 bits of KV cache, also what each class had and what that is expected to cost.
    """
    from rich.console import Group

    parts = [_run_table(summary), _latency_table(summary)]
    if len(summary.get("classes") or {}) > 1:
        parts.append(_group_table("Class", summary["classes"]))
    if len(summary.get("tenants") or {}) > 1:
        parts.append(_group_table("Tenant", summary["tenants"]))
    if columns := shown_precision([summary]):
        parts.append(_precision_of_run(summary, columns))
    if summary.get("replicas"):
        parts.append(_replica_table(summary["replicas"]))
    return Group(*parts)


def compare_table(
    runs: Sequence[tuple[str, Summary]], differences: Sequence[Difference] = ()
) -> Table:
    """Runs in columns; behind the first, the difference from the first in per cent, or in points of
    a share. Bits of the KV cache are shown where any run has fewer than 16.

    `better` and `worse` say which way the difference goes for that metric. With `differences`, the
    bounds of its interval follow, and `unclear` stands where that holds no difference at all. More
    than six runs stand in rows, with fewer metrics and without bounds.
    """
    if len(runs) > _MOST_COLUMNS:
        return _compare_many(runs, differences)
    table = _table("Metric", *(name for name, _ in runs), title="Comparison")
    known = {(found.arm, found.metric): found for found in differences}
    precision = shown_precision(summary for _, summary in runs)
    for key, label in (*COMPARE_ROWS.items(), *precision.items()):
        values = [summary.get(key) for _, summary in runs]
        if any(value is not None for value in values):
            found = [known.get((name, key)) for name, _ in runs]
            cells = [
                _compared(key, value, values[0], i, found[i]) for i, value in enumerate(values)
            ]
            table.add_row(label, *cells)
    table.caption = _what_intervals_are(differences)
    table.caption_justify = "left"
    return table


def _compare_many(runs: Sequence[tuple[str, Summary]], differences: Sequence[Difference]) -> Table:
    precision = shown_precision(summary for _, summary in runs)
    wide = (*_WIDE_ROWS, *precision)
    shown = [key for key in wide if any(summary.get(key) is not None for _, summary in runs)]
    titles = {**COMPARE_ROWS, **precision}
    table = _table("Scheduler", *(titles[key] for key in shown), title="Comparison")
    known = {(found.arm, found.metric): found for found in differences}
    base = runs[0][1]
    for column, (name, summary) in enumerate(runs):
        cells = [
            _change(key, summary.get(key), base.get(key), column, known.get((name, key)))
            for key in shown
        ]
        table.add_row(_text(name), *cells)
    return table


def precision_table(runs: Sequence[tuple[str, Summary]]) -> Table | None:
    """Bits of the KV cache, and what they are expected to cost, by class and run; None where no run
    has fewer than 16 bits or all have one class.
    """
    columns = shown_precision(summary for _, summary in runs)
    names = dict.fromkeys(name for _, summary in runs for name in summary.get("classes") or {})
    if not columns or len(names) < 2:
        return None
    table = _table("Class", "run", *columns.values(), title="Precision of the KV cache")
    for name in names:
        for run, summary in runs:
            group = (summary.get("classes") or {}).get(name) or {}
            cells = (_value(key, group.get(key)) for key in columns)
            table.add_row(_text(name), _text(run), *cells)
    return table


def difference(key: str, value: Value, base: Value) -> tuple[float, str] | None:
    """Change from `base` and `better`, `worse` or `same`; None if it has no meaning.

    Shares differ in percentage points, all else in per cent of `base`.
    """
    if not isinstance(value, int | float) or not isinstance(base, int | float):
        return None
    if value == base:
        return 0.0, "same"
    if is_share(key):
        change = 100 * (value - base)
    elif base:
        change = 100 * (value - base) / abs(base)
    else:
        return None
    if abs(change) < SAME:
        return change, "same"
    return change, "better" if (change > 0) == higher_is_better(key) else "worse"


def _run_table(summary: Summary) -> Table:
    table = _table("Run", "")
    for key, label in _RUN_ROWS.items():
        if summary.get(key) is not None:
            table.add_row(label, _value(key, summary[key]))
    return table


def _latency_table(summary: Summary) -> Table:
    table = _table("Latency (ms)", *_STATISTICS)
    for key, label in LATENCIES.items():
        cells = [_value("", summary.get(f"{name}_{key}_ms")) for name in _STATISTICS]
        table.add_row(label, *cells)
    return table


REPLICA_COLUMNS = {
    "submitted": "requests",
    "slo_attainment": "SLO %",
    "p99_ttft_ms": "TTFT p99",
    "output_throughput": "output tokens/s",
    "utilisation": "busy %",
    "peak_kv_bytes": "peak KV (GiB)",
}
"""What is shown of each replica."""


def _replica_table(replicas: Sequence[Summary]) -> Table:
    table = _table("Replica", *REPLICA_COLUMNS.values())
    for each in replicas:
        cells = [_value(key, each.get(key)) for key in REPLICA_COLUMNS]
        table.add_row(str(each["replica"]), *cells)
    return table


def _group_table(title: str, groups: Mapping[str, Summary]) -> Table:
    columns = {
        "submitted": "requests",
        "slo_attainment": "SLO %",
        "p99_ttft_ms": "TTFT p99",
        "p99_tpot_ms": "TPOT p99",
        "p99_e2el_ms": "E2E p99",
        "worst_stall_ms": "max stall",
        "worst_wait_ms": "max wait",
    }
    table = _table(title, *columns.values())
    for name, group in groups.items():
        table.add_row(_text(name), *(_value(key, group.get(key)) for key in columns))
    return table


def _precision_of_run(summary: Summary, columns: Mapping[str, str]) -> Table:
    """Apart from the latencies of classes, so that both fit into 80 columns."""
    table = _table("KV cache", *columns.values())
    classes = summary.get("classes") or {}
    for name, group in (("all", summary), *(classes.items() if len(classes) > 1 else ())):
        table.add_row(_text(name), *(_value(key, group.get(key)) for key in columns))
    return table


def _table(first: str, *others: str, title: str | None = None) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(_text(name), justify="right")
    return table


def _compared(key: str, value: Value, base: Value, column: int, found: Difference | None) -> str:
    same = column and (difference(key, value, base) or ("", ""))[1] == "same"
    return _change(key, value, base, column, found) + ("" if same else _bounds(key, found))


def _change(key: str, value: Value, base: Value, column: int, found: Difference | None) -> str:
    """A value, and below it which way it goes from the first run's."""
    change = difference(key, value, base) if column else None
    if change is None:
        return _value(key, value)
    amount, mark = change
    unit = " points" if is_share(key) else "%"
    if mark == "same":
        return f"{_value(key, value)}\n[dim]same[/dim]"
    if found is not None and found.interval is not None and found.interval.contains_zero:
        mark = "unclear"
    colour = {"better": "green", "worse": "red"}.get(mark, "yellow")
    return f"{_value(key, value)}\n[{colour}]{amount:+,.1f}{unit} {mark}[/{colour}]"


def _bounds(key: str, found: Difference | None) -> str:
    """The interval of a difference: in points of a share, else in per cent of the reference; in the
    metric's unit where it reaches below what can be lost, or the reference is 0.
    """
    if found is None or found.interval is None:
        return ""
    low, high = found.interval.low, found.interval.high
    if is_share(key):
        return f"\n[dim]{100 * low:+.1f} to {100 * high:+.1f} points[/dim]"
    if not found.base or low < -found.base:
        return f"\n[dim]{_signed(key, low)} to {_signed(key, high)}[/dim]"
    low, high = 100 * low / found.base, 100 * high / found.base
    return f"\n[dim]{low:+,.1f} to {high:+,.1f}%[/dim]"


def _signed(key: str, value: float) -> str:
    return _value(key, value) if value < 0 else f"+{_value(key, value)}"


def _what_intervals_are(differences: Sequence[Difference]) -> str | None:
    """The line below the table."""
    found = [each.interval for each in differences if each.interval is not None]
    if not found:
        return None
    level, methods = f"{100 * found[0].level:g}%", sorted({each.method for each in found})
    if methods != ["block bootstrap"]:
        seeds = found[0].size
        few = "; few seeds" if methods == ["paired t"] else ""
        return f"Second range: {level} interval, paired over {seeds} seeds ({methods[0]}{few})."
    return (
        f"Second range: {level} interval from blocks of successive requests of this one trace "
        "(block bootstrap); it says nothing about other arrivals."
    )


def _value(key: str, value: Value) -> str:
    """A number with about four digits, in the unit that the labels of this module name."""
    if value is None:
        return "-"
    if key in PRECISION or isinstance(value, str):
        return precision_text(key, value)
    if is_share(key):
        value *= 100
    if key.endswith("_bytes"):
        value /= 2**30
    if isinstance(value, int) or value == 0:
        return f"{value:,.0f}"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def _text(name: str) -> str:
    from rich.markup import escape

    return escape(name)
