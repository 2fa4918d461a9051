"""`superinfer-sim traces`: describe, convert, generate and mix request traces."""

from __future__ import annotations

import typer

from traces.cli.from_log import from_log
from traces.cli.make import convert, generate, mix
from traces.cli.stats import stats

app = typer.Typer(
    help="Describe, convert, generate and mix request traces.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command("stats")(stats)
app.command("convert")(convert)
app.command("from-log")(from_log)
app.command("generate")(generate)
app.command("mix")(mix)
