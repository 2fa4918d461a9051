"""The commands of `superinfer-sim traces` that make a trace of others, or of a specification."""

from __future__ import annotations

from typing import Annotated

import typer

from traces.cli.files import check_output, read, warn, write
from traces.cli.options import (
    AsJson,
    Classes,
    HashBlockSize,
    Limit,
    Output,
    SkipBad,
    Spread,
    TimeUnit,
    TracePath,
)


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

    check_output(output, path, classes, as_json=as_json)
    dialect = Dialect(hash_block_size, time_unit.value)
    options = {"skip_bad": skip_bad, "spread": spread, "limit": limit, "dialect": dialect}
    write(read(path, classes, **options), output, as_json)


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

    known = None if classes is None else load_classes(classes)
    described = load_spec(spec, parse_settings(settings or ()), classes=known)
    check_output(output, classes, *described.files, as_json=as_json)
    write(make(described, seed), output, as_json)


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

    known = PRESETS if classes is None else load_classes(classes)
    parsed = parse_sources(sources, known)
    check_output(output, *(path for path, _ in parsed), classes, as_json=as_json)
    workload = merge(
        parsed, classes=known, skip_bad=skip_bad, spread=spread, limit=limit, align=align
    )
    warn(workload, "mix")
    write(workload, output, as_json)
