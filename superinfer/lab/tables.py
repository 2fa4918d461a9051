"""Tables for the terminal: one run, or several runs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from superinfer.lab.changes import PER_CENT, POINTS, Amount, change
from superinfer.lab.cli.terminal import printable
from superinfer.lab.metric_names import COMPARE_ROWS, LATENCIES, Summary, fraction_digits, is_share
from superinfer.lab.notices.hybrids import footnote, marked
from superinfer.lab.precision import PRECISION, precision_text, shown_precision

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from superinfer.lab.studies.differences import Difference

Value = float | str | None
"""A number, a word where there is none (`unmeasured`), or nothing."""

_STATISTICS = ("mean", "median", "p90", "p99", "p999")
_RUN_ROWS = {
    "submitted": "requests submitted",
    "completed": "completed",
    "rejected": "rejected",
    "failed": "failed",
    "cancelled": "cancelled",
    "unfinished": "unfinished",
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
_RARE = {"failed": "failed", "cancelled": "cancelled", "unfinished": "unfinished"}
"""Ends that are shown beside the others where any request had one."""
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
    than six runs stand in rows, with fewer metrics and without bounds. Hybrids have a mark.
    """
    if len(runs) > _MOST_COLUMNS:
        return _compare_many(runs, differences)
    table = _table("Metric", *(marked(*run) for run in runs), title="Comparison")
    known = {(found.arm, found.metric): found for found in differences}
    precision = shown_precision(summary for _, summary in runs)
    rare = _rare(summary for _, summary in runs)
    for key, label in (*COMPARE_ROWS.items(), *rare.items(), *precision.items()):
        values = [summary.get(key) for _, summary in runs]
        if any(value is not None for value in values):
            others = [known.get((name, key)) for name, _ in runs[1:]]
            cells = [
                _cell(key, value, values[0], found)
                for value, found in zip(values[1:], others, strict=True)
            ]
            table.add_row(label, _value(key, values[0]), *cells)
    _explain(table, _what_intervals_are(differences), footnote(summary for _, summary in runs))
    return table


def _compare_many(runs: Sequence[tuple[str, Summary]], differences: Sequence[Difference]) -> Table:
    precision = shown_precision(summary for _, summary in runs)
    rare = _rare(summary for _, summary in runs)
    wide = (*_WIDE_ROWS, *rare, *precision)
    shown = [key for key in wide if any(summary.get(key) is not None for _, summary in runs)]
    titles = {**COMPARE_ROWS, **rare, **precision}
    table = _table("Scheduler", *(titles[key] for key in shown), title="Comparison")
    known = {(found.arm, found.metric): found for found in differences}
    (first, base), *others = runs
    table.add_row(_text(marked(first, base)), *(_value(key, base.get(key)) for key in shown))
    for name, summary in others:
        cells = [
            _cell(key, summary.get(key), base.get(key), known.get((name, key)), bounds=False)
            for key in shown
        ]
        table.add_row(_text(marked(name, summary)), *cells)
    _explain(table, footnote(summary for _, summary in runs))
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


def _run_table(summary: Summary) -> Table:
    table = _table("Run", "")
    for key, label in _RUN_ROWS.items():
        value = summary.get(key)
        if value is None or (key in ("cancelled", "unfinished") and not value):
            continue
        table.add_row(label, _value(key, value))
    return table


def _rare(summaries: Iterable[Summary]) -> Mapping[str, str]:
    """The rows of ends that any request of these runs had; `rejected` always has one."""
    found = list(summaries)
    return {key: name for key, name in _RARE.items() if any(each.get(key) for each in found)}


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
    named = [(str(each["replica"]), each) for each in replicas]
    return _rows("Replica", REPLICA_COLUMNS, named)


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
    return _rows(title, columns, groups.items())


def _precision_of_run(summary: Summary, columns: Mapping[str, str]) -> Table:
    """Apart from the latencies of classes, so that both fit into 80 columns."""
    classes = summary.get("classes") or {}
    groups = classes.items() if len(classes) > 1 else ()
    return _rows("KV cache", columns, (("all", summary), *groups))


def _rows(title: str, columns: Mapping[str, str], groups: Iterable[tuple[str, Summary]]) -> Table:
    """A row of metrics for each group."""
    table = _table(title, *columns.values())
    for name, group in groups:
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


def _explain(table: Table, *lines: str) -> None:
    """Put what there is to say below a table."""
    table.caption = "\n".join(_text(line) for line in lines if line) or None
    table.caption_justify = "left"


def _cell(
    key: str, value: Value, base: Value, found: Difference | None, *, bounds: bool = True
) -> str:
    """A value, and below it which way it goes from the first run's; then the `bounds` of that."""
    known = (found.interval, found.few) if found else (None, False)
    changed = change(key, value, base, *known)
    if changed is None:
        return _value(key, value)
    if changed.verdict == "same":
        return f"{_value(key, value)}\n[dim]same[/dim]"
    colour = {"better": "green", "worse": "red"}.get(changed.verdict, "yellow")
    amount = f"{_signed(changed.amount)}{_unit(changed.amount)}"
    cell = f"{_value(key, value)}\n[{colour}]{amount} {changed.verdict}[/{colour}]"
    if not bounds or changed.bounds is None:
        return cell
    low, high = changed.bounds
    return f"{cell}\n[dim]{_signed(low)} to {_signed(high)}{_unit(high)}[/dim]"


def _signed(amount: Amount) -> str:
    if amount.unit in (POINTS, PER_CENT):
        return f"{amount.value:+,.1f}"
    return f"{'' if amount.value < 0 else '+'}{_value('', amount.value)}"


def _unit(amount: Amount) -> str:
    return f" {amount.unit}" if amount.unit not in ("", PER_CENT) else amount.unit


def _what_intervals_are(differences: Sequence[Difference]) -> str:
    """What the second ranges are; empty where there are none."""
    found = [each.interval for each in differences if each.interval is not None]
    if not found:
        return ""
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
    return f"{value:,.{fraction_digits(value)}f}"


def _text(name: str) -> str:
    """A name as it is, without what rich or a terminal would take for a command."""
    from rich.markup import escape

    return escape(printable(name))
