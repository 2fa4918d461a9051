"""The options that mean the same in `superinfer-sim` and `superinfer-exec`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Trace = Annotated[
    str | None,
    typer.Argument(
        metavar="TRACE",
        show_default="run.trace of --config",
        help="Trace, or specification by file or bundled name; - for a trace on stdin.",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="Scheduler, by name or as package.module:Class.", show_default="rotating"),
]
Memory = Annotated[
    str | None,
    typer.Option(help="Memory policy, by name or as package.module:Class.", show_default="lru"),
]
PrefixCaching = Annotated[
    bool | None,
    typer.Option(
        "--prefix-caching/--no-prefix-caching",
        help="Reuse the KV cache of equal prompt beginnings.",
        show_default="no-prefix-caching",
    ),
]
Lag = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=1,
        help="1: plan the next step while the current one runs.",
        show_default="0",
    ),
]
AsReleased = Annotated[
    bool | None,
    typer.Option(
        "--as-released",
        help="Memory policy, prefix caching and lag as the scheduler's release has them, where "
        "they are not given.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="TOML configuration, or scenario-m or scenario-c."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="One setting, e.g. scheduler.max_num_seqs=128."),
]
Classes = Annotated[
    Path | None,
    typer.Option("--classes", metavar="FILE", help="TOML file of service classes."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON alone.")]
NoPlots = Annotated[bool, typer.Option("--no-plots", help="Write no pictures.")]
SkipBad = Annotated[
    bool | None, typer.Option("--skip-bad", help="Leave bad lines out and count them.")
]
Limit = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Use only the first N requests.")
]
HashBlockSize = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=10_000_000,
        help="Tokens per hash id, where records do not say it.",
        show_default="512",
    ),
]
TimeUnit = Annotated[
    str | None,
    typer.Option(metavar="UNIT", help="Of timestamps: ms or s.", show_default="ms"),
]
RateScale = Annotated[
    float | None,
    typer.Option(metavar="X", help="Arrival rate as a multiple of the trace's."),
]
WithoutSlo = Annotated[
    bool | None, typer.Option("--without-slo", help="Take every target away from the requests.")
]


def with_version(app: typer.Typer) -> None:
    """Give a program the option `--version`."""
    app.callback()(_program)


# -- inside ---------------------------------------------------------------------------------------


def _tell_version(asked: bool) -> None:
    if asked:
        from superinfer.lab.versions import version_of

        typer.echo(f"superinfer {version_of('superinfer')}")
        raise typer.Exit


def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_tell_version, is_eager=True, help="Print the version and end."
        ),
    ] = False,
) -> None:
    del version  # told by now
