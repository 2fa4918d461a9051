"""`traces stats` and `traces convert`: what a trace holds, and other formats made native."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superinfer.errors import SuperInferError

if TYPE_CHECKING:
    from traces.workload import Workload

app = typer.Typer(help="Describe and convert request traces.", no_args_is_help=True)

TracePath = Annotated[
    str, typer.Argument(metavar="PATH", help="Native, Mooncake or Azure trace; - for stdin.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad lines out and count them.")]
Classes = Annotated[
    Path | None, typer.Option("--classes", metavar="FILE", help="TOML file of service classes.")
]


@app.command()
def stats(
    path: TracePath,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False,
    skip_bad: SkipBad = False,
    classes: Classes = None,
) -> None:
    """Print rates, lengths, classes and prefix sharing of a trace."""
    from traces.stats import trace_stats

    with _errors_on_stderr():
        workload = _read(path, classes, skip_bad=skip_bad)
        report = trace_stats(workload)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _print_table(report)


@app.command()
def convert(
    path: TracePath,
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="OUT", help="Gzip if it ends in .gz; - stdout.")
    ],
    skip_bad: SkipBad = False,
    spread: Annotated[
        bool, typer.Option("--spread", help="Distribute requests that share a stamp.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Keep the first N requests.")
    ] = None,
    classes: Classes = None,
) -> None:
    """Write a trace as native JSON lines."""
    from traces.convert import write_native

    with _errors_on_stderr():
        workload = _read(path, classes, skip_bad=skip_bad, spread=spread, limit=limit)
        write_native(workload, output)
    typer.echo(f"wrote {len(workload.requests)} requests to {output}", err=True)


@contextmanager
def _errors_on_stderr() -> Iterator[None]:
    try:
        yield
    except SuperInferError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None


def _read(
    path: str,
    classes: Path | None,
    *,
    skip_bad: bool,
    spread: bool = False,
    limit: int | None = None,
) -> Workload:
    from superinfer.slo_classes import load_classes
    from traces.readers import read_trace

    known = None if classes is None else load_classes(classes)
    workload = read_trace(path, classes=known, skip_bad=skip_bad, spread=spread, limit=limit)
    for warning in workload.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if workload.skipped:
        typer.echo(f"warning: {path}: skipped {workload.skipped} bad lines", err=True)
    return workload


def _print_table(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("what", "value")
    table.columns[1].justify = "right"
    for label, value in _flat(report):
        table.add_row(escape(label), escape(_text(value)))
    Console().print(table)


def _flat(report: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in report.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
