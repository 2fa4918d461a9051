"""`traces stats` and `traces convert`: what a trace holds, and other formats made native."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superinfer.errors import InputError, SuperInferError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from traces.workload import Workload

app = typer.Typer(
    help="Describe and convert request traces.", no_args_is_help=True, rich_markup_mode=None
)

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
        print_out(json.dumps(report, indent=2))
    else:
        print_table(_table(report))


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
        with quiet_pipe():
            write_native(workload, output)
    typer.echo(f"wrote {len(workload.requests)} requests to {output}", err=True)


def print_out(text: str) -> None:
    """Print to standard output, at once."""
    with quiet_pipe():
        print(text, flush=True)


def print_table(table: RenderableType) -> None:
    """Print a table. Only a terminal limits its width: nothing is cut off in a file or a pipe."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, console.measure(table).maximum)
    with console.capture() as captured:
        console.print(table)
    print_out(captured.get().removesuffix("\n"))


@contextmanager
def quiet_pipe() -> Iterator[None]:
    """Let the reader of standard output go away, as `head` does; the rest is not written."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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

    if path == "-" and sys.stdin is None:
        raise InputError("expected a trace, got a closed standard input", file="<stdin>")
    known = None if classes is None else load_classes(classes)
    workload = read_trace(path, classes=known, skip_bad=skip_bad, spread=spread, limit=limit)
    for warning in workload.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if workload.skipped:
        typer.echo(f"warning: {path}: skipped {workload.skipped} bad lines", err=True)
    return workload


def _table(report: dict[str, Any]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("what", "value")
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
    return f"{value:,.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
