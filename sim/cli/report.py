"""The options of `superinfer-sim report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", help="A result of run or compare, or several of run."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="For the comparison of several; pages there are replaced.",
            show_default="runs/<trace>-report-<time>",
        ),
    ] = None,
) -> None:
    """Draw the report and pictures of a result again, or compare several; the first is the
    reference.
    """
    from sim.studies.report import report_command

    raise typer.Exit(report_command(folders, out))
