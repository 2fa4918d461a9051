"""`superinfer-sim traces stats`: what is in a trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from traces.cli.files import read
from traces.cli.options import AsJson, Classes, SkipBad, TracePath
from traces.printing import print_out, print_table

if TYPE_CHECKING:
    from rich.table import Table


def stats(
    path: TracePath,
    as_json: AsJson = False,
    skip_bad: SkipBad = False,
    classes: Classes = None,
) -> None:
    """Print rates, lengths, classes and prefix sharing of a trace."""
    from traces.stats import trace_stats

    workload = read(path, classes, skip_bad=skip_bad)
    report = trace_stats(workload)
    if as_json:
        print_out(json.dumps(report, indent=2))
    else:
        print_table(_table(report))


# -- inside ---------------------------------------------------------------------------------------


def _table(report: dict[str, Any]) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table("what", "value", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[1].justify = "right"
    for label, value in _flat(report):
        table.add_row(escape(label), escape(_text(value)))
    return table


def _flat(report: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in report.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else str(value)
