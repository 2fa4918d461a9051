"""`superinfer-sim traces`: describe, convert, generate and mix request traces."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superinfer.errors import ConfigError, InputError, SuperInferError
from superinfer.outputs import check_writable
from superinfer.slo_classes import MAX_LENGTH_TOKENS

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from traces.workload import Workload

app = typer.Typer(
    help="Describe, convert, generate and mix request traces.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

TracePath = Annotated[
    str, typer.Argument(metavar="PATH", help="Native, Mooncake or Azure trace; - for stdin.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad lines out and count them.")]
Classes = Annotated[
    Path | None, typer.Option("--classes", metavar="FILE", help="TOML file of service classes.")
]
Output = Annotated[
    str, typer.Option("-o", "--output", metavar="OUT", help="Gzip if it ends in .gz; - stdout.")
]
Spread = Annotated[bool, typer.Option("--spread", help="Distribute requests that share a stamp.")]
Limit = Annotated[
    int | None, typer.Option("--limit", metavar="N", min=1, help="Keep the first N requests.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone.")]

HashBlockSize = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        max=MAX_LENGTH_TOKENS,
        help="Tokens per hash id, where records do not say it.",
    ),
]


class TimeUnit(StrEnum):
    """What `timestamp` counts in."""

    MS = "ms"
    S = "s"


_WIDEST = 100_000
"""Characters; more than any table has."""
_CUT = "…"
"""Ends what Rich has cut off."""


@app.command()
def stats(
    path: TracePath,
    as_json: AsJson = False,
    skip_bad: SkipBad = False,
    classes: Classes = None,
) -> None:
    """Print rates, lengths, classes and prefix sharing of a trace."""
    from traces.stats import trace_stats

    with errors_on_stderr():
        workload = _read(path, classes, skip_bad=skip_bad)
        report = trace_stats(workload)
    if as_json:
        print_out(json.dumps(report, indent=2))
    else:
        print_table(_table(report))


@app.command()
def convert(
    path: TracePath,
    output: Output,
    skip_bad: SkipBad = False,
    spread: Spread = False,
    limit: Limit = None,
    classes: Classes = None,
    hash_block_size: HashBlockSize = 512,
    time_unit: Annotated[TimeUnit, typer.Option(help="Of timestamps.")] = TimeUnit.MS,
    as_json: AsJson = False,
) -> None:
    """Write a trace as native JSON lines."""
    from traces.dialect import Dialect

    with errors_on_stderr():
        _check(output, path, as_json=as_json)
        dialect = Dialect(hash_block_size, time_unit.value)
        options = {"skip_bad": skip_bad, "spread": spread, "limit": limit, "dialect": dialect}
        _write(_read(path, classes, **options), output, as_json)


@app.command("from-log")
def from_log(
    path: Annotated[
        str, typer.Argument(metavar="LOG", help="CSV with a header, or JSON; - for stdin.")
    ],
    output: Output,
    time: Annotated[str, typer.Option(metavar="COLUMN", help="When a request came.")],
    prompt: Annotated[str, typer.Option(metavar="COLUMN", help="Tokens of its prompt.")],
    answer: Annotated[str, typer.Option(metavar="COLUMN", help="Tokens of its answer.")],
    time_unit: Annotated[
        str | None,
        typer.Option(
            metavar="UNIT",
            help="s, ms, us or ns, where times are numbers.",
            show_default="ISO 8601",
        ),
    ] = None,
    tenant: Annotated[str | None, typer.Option(metavar="COLUMN", help="Who sent it.")] = None,
    request_id: Annotated[
        str | None, typer.Option("--id", metavar="COLUMN", help="What no two requests share.")
    ] = None,
    session: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Whose turns it is one of.")
    ] = None,
    priority: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Lower runs first.")
    ] = None,
    max_tokens: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The client's limit of its answer.")
    ] = None,
    hash_ids: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Lists of the ids of its prompt's blocks.")
    ] = None,
    hash_block_size: HashBlockSize = 512,
    class_by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Whose values --class makes classes of.")
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="[VALUE=]CLASS", help="May be given again."),
    ] = None,
    delimiter: Annotated[str, typer.Option(metavar="C", help="Between columns of a CSV.")] = ",",
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Make a trace from a log, by the names of its columns (in JSON with dots)."""
    from traces.convert import lines_of
    from traces.from_log import Columns, read_log

    with errors_on_stderr():
        _check(output, path, as_json=as_json)
        of_values, of_all = _classes(classes or ())
        columns = Columns(
            time,
            prompt,
            answer,
            tenant=tenant,
            request_id=request_id,
            session=session,
            priority=priority,
            max_tokens=max_tokens,
            hash_ids=hash_ids,
            hash_block_size=hash_block_size,
            class_by=class_by,
            classes=of_values,
            class_of_all=of_all,
            time_unit=time_unit,
            delimiter=delimiter,
        )
        log = read_log(path, columns, skip_bad=skip_bad)
        for warning in log.warnings:
            typer.echo(f"warning: {warning}", err=True)
        if log.skipped:
            typer.echo(f"warning: {path}: {log.skipped_note}", err=True)
        counts = {"requests": len(log.records), "skipped_lines": log.skipped}
        _write_lines(lines_of(log.records), output, counts, as_json)


@app.command()
def generate(
    spec: Annotated[
        str, typer.Argument(metavar="SPEC", help="TOML file, or the name of a bundled one.")
    ],
    output: Output,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, max=2**63 - 1, help="Equal seeds give equal traces.")
    ] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="One value, e.g. clients.chat.rate_per_s=2."),
    ] = None,
    classes: Classes = None,
    as_json: AsJson = False,
) -> None:
    """Make a trace from a specification of clients, lengths and sessions."""
    from superinfer.settings import parse_settings
    from superinfer.slo_classes import load_classes
    from traces.generate import generate as make
    from traces.generate import load_spec

    with errors_on_stderr():
        _check(output, as_json=as_json)
        known = None if classes is None else load_classes(classes)
        described = load_spec(spec, parse_settings(settings or ()), classes=known)
        _write(make(described, seed), output, as_json)


@app.command()
def mix(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="PATH[:CLASS]...", help="Traces; a class replaces the records'."),
    ],
    output: Output,
    skip_bad: SkipBad = False,
    spread: Spread = False,
    limit: Limit = None,
    align: Annotated[
        bool, typer.Option("--align", help="Let each trace's first request arrive at 0.")
    ] = False,
    classes: Classes = None,
    as_json: AsJson = False,
) -> None:
    """Merge traces in order of time; no prompt of one is shared with another's."""
    from superinfer.slo_classes import PRESETS, load_classes
    from traces.mix import mix as merge
    from traces.mix import parse_sources

    with errors_on_stderr():
        known = PRESETS if classes is None else load_classes(classes)
        parsed = parse_sources(sources, known)
        _check(output, *(path for path, _ in parsed), as_json=as_json)
        workload = merge(
            parsed, classes=known, skip_bad=skip_bad, spread=spread, limit=limit, align=align
        )
        _warn(workload, "mix")
        _write(workload, output, as_json)


@contextmanager
def errors_on_stderr() -> Iterator[None]:
    """Say a user's mistake in one line, and end with its exit code."""
    try:
        yield
    except SuperInferError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None


def print_out(text: str) -> None:
    """Print to standard output, at once."""
    with quiet_pipe():
        print(text, flush=True)


def print_table(table: RenderableType) -> None:
    """Print a table. A terminal limits its width to what its words need, and breaks longer lines
    itself: no figure is cut off.
    """
    from rich.console import Console

    console = Console()
    given, terminal = console.width, console.is_terminal
    text = _rendered(console, table, given) if terminal else ""
    if not text or _CUT in text:
        text = _uncut(console, table, given if terminal else _WIDEST)
    print_out(text.removesuffix("\n"))


def _uncut(console: Console, table: RenderableType, least: int) -> str:
    """As narrow as it can be, and no narrower than that."""
    console.width = _WIDEST  # no measure is above the console's width
    widest = console.measure(table).maximum
    whole = _rendered(console, table, widest)
    of_names = whole.count(_CUT)
    narrower = (_rendered(console, table, width) for width in range(least, widest, 4))
    return next((text for text in narrower if text.count(_CUT) <= of_names), whole)


def _rendered(console: Console, table: RenderableType, width: int) -> str:
    console.width = width
    with console.capture() as captured:
        console.print(table)
    return captured.get()


@contextmanager
def quiet_pipe() -> Iterator[None]:
    """Let the reader of standard output go away, as `head` does; the rest is not written."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _read(path: str, classes: Path | None, **options: Any) -> Workload:
    """A trace with the options of `read_trace`; says what is odd about it."""
    from superinfer.slo_classes import load_classes
    from traces.readers import read_trace

    if path == "-" and sys.stdin is None:
        raise InputError("expected a trace, got a closed standard input", file="<stdin>")
    known = None if classes is None else load_classes(classes)
    workload = read_trace(path, classes=known, **options)
    _warn(workload, path)
    return workload


def _warn(workload: Workload, path: str) -> None:
    for warning in workload.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if workload.skipped:
        typer.echo(f"warning: {path}: {workload.skipped_note}", err=True)


def _check(output: str, *inputs: str, as_json: bool) -> None:
    """Find out before the work whether its outcome can be written, and takes no input's place."""
    if output == "-":
        if as_json:
            raise ConfigError("--json: expected a file as --output, got - for standard output")
        return
    path = Path(output)
    check_writable(path, file=True)
    for each in inputs:
        if path.is_file() and Path(each).is_file() and path.samefile(each):
            raise InputError("expected another file than the one that is read", file=output)


def _write(workload: Workload, output: str, as_json: bool) -> None:
    from traces.convert import native_bytes

    counts = {
        "requests": len(workload.requests),
        "skipped_lines": workload.skipped,
        "raised_max_tokens": workload.raised_max_tokens,
    }
    _write_lines(native_bytes(workload), output, counts, as_json)


def _write_lines(data: bytes, output: str, counts: dict[str, int], as_json: bool) -> None:
    """Write a trace, and say where it is and what is in it."""
    from traces.convert import write_lines

    with quiet_pipe():
        write_lines(data, output)
    requests = counts["requests"]
    typer.echo(f"wrote {requests} request{'s' * (requests != 1)} to {output}", err=True)
    if as_json:
        print_out(json.dumps({"path": output, **counts}, indent=2))


def _classes(texts: Sequence[str]) -> tuple[dict[str, str], str | None]:
    """What `--class` says: classes by the values of a column, and that of all requests."""
    pairs = [text.rpartition("=") for text in texts]
    of_values = {value: name for value, sign, name in pairs if sign}
    of_all = [name for _, sign, name in pairs if not sign]
    if len(of_all) > 1 or (of_all and of_values):
        raise ConfigError("--class: expected one class for all requests, or VALUE=CLASS for each")
    return of_values, of_all[0] if of_all else None


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
