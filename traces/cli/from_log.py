"""`superinfer-sim traces from-log`: a trace of the log of another system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from superinfer.errors import ConfigError
from traces.cli.files import check_output, write_records
from traces.cli.options import AsJson, HashBlockSize, Output, SkipBad


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
    latency: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="What it took, where --time is when it ended."),
    ] = None,
    latency_unit: Annotated[
        str | None, typer.Option(metavar="UNIT", help="Of --latency: s, ms, us or ns.")
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
        typer.Option(
            "--class",
            metavar="[VALUE=]CLASS",
            help="Without VALUE: of all other requests. May be given again.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=VALUE",
            help="Leave all other rows out. Again for another value, or a further column.",
        ),
    ] = None,
    delimiter: Annotated[str, typer.Option(metavar="C", help="Between columns of a CSV.")] = ",",
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Make a trace from a log, by the names of its columns (in JSON with dots)."""
    from traces.convert import lines_of
    from traces.logs.from_log import Columns, read_log

    check_output(output, path, as_json=as_json)
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
        latency=latency,
        latency_unit=latency_unit,
        only=_only(only or ()),
        delimiter=delimiter,
    )
    log = read_log(path, columns, skip_bad=skip_bad)
    for warning in log.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if log.skipped:
        typer.echo(f"warning: {path}: {log.skipped_note}", err=True)
    counts = {"requests": len(log.records), "skipped_lines": log.skipped}
    write_records(lines_of(log.records), output, counts, as_json)


# -- inside ---------------------------------------------------------------------------------------


def _only(texts: Sequence[str]) -> dict[str, list[str]]:
    """Columns, and the values of which a row has to have one."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name and sign):
            raise ConfigError(f"--only: expected COLUMN=VALUE, got {text!r}")
        found.setdefault(name, []).append(value)
    return found


def _classes(texts: Sequence[str]) -> tuple[dict[str, str], str | None]:
    """What `--class` says: classes by the values of a column, and that of all others."""
    pairs = [text.rpartition("=") for text in texts]
    of_values = {value: name for value, sign, name in pairs if sign}
    of_all = [name for _, sign, name in pairs if not sign]
    if len(of_all) > 1:
        raise ConfigError("--class: expected one class without VALUE=, got " + ", ".join(of_all))
    for value, sign, name in pairs:
        if sign and of_values[value] != name:
            raise ConfigError(
                f"--class {value}=: expected one class, got {name}, {of_values[value]}"
            )
    return of_values, of_all[0] if of_all else None
