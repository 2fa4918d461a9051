"""The options of `superinfer-sim tune`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.options import (
    ConfigOptions,
    StudyOptions,
    names_in,
    with_config_options,
)
from superinfer.lab.options import Scheduler

if TYPE_CHECKING:
    from superinfer.lab.axes import Value
    from superinfer.lab.config import Config


@with_config_options
def tune(
    options: ConfigOptions,
    study: StudyOptions,
    scheduler: Scheduler = None,
    trials: Annotated[
        int, typer.Option(metavar="N", min=1, help="Settings to try in all, with those of before.")
    ] = 40,
    objectives: Annotated[
        str | None,
        typer.Option(
            metavar="KEY,...",
            help="Keys of summary.json, or attainment, goodput, throughput; the first counts most.",
            show_default="attainment,throughput,p99_ttft_ms; without targets not the first",
        ),
    ] = None,
    params: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Parameters of the scheduler to vary.",
            show_default="its numbers and words",
        ),
    ] = None,
    space: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file of ranges and choices for any setting.",
            show_default="from the scheduler's parameters",
        ),
    ] = None,
    search_seed: Annotated[
        int, typer.Option(metavar="S", min=0, help="Seed of the search for settings.")
    ] = 0,
    batch: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Trials drawn at a time, on what all before gave."),
    ] = 4,
    storage: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="SQLite file of the trials; one that is there goes on.",
            show_default="study.db in --out",
        ),
    ] = None,
) -> None:
    """Look for settings of a scheduler that no others beat; needs the extra `tune`."""
    from sim.sweep_cli import load_at
    from sim.tune import TuneWish, tune_command

    def config_at(extra: Mapping[str, Value]) -> Config:
        return load_at(options, None, scheduler, extra)

    wish = TuneWish(
        trials=trials,
        engine=study.make_engine(),
        objectives=names_in(objectives),
        params=names_in(params),
        space=space,
        seeds=study.seeds,
        search_seed=search_seed,
        batch=batch,
        storage=storage,
        out=study.out,
        as_json=study.as_json,
        plots=not study.no_plots,
    )
    raise typer.Exit(tune_command(config_at, wish))
