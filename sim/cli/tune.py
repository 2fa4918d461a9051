"""The options of `superinfer-sim tune`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.bundles import with_config_options
from sim.cli.options import ConfigOptions, StudyOptions, names_in
from superinfer.lab.cli.options import Scheduler

if TYPE_CHECKING:
    from superinfer.lab.config import Config
    from superinfer.lab.studies.axes import Value

Trials = Annotated[
    int, typer.Option(metavar="N", min=1, help="Settings to try in all, with those of before.")
]
Objectives = Annotated[
    str | None,
    typer.Option(
        metavar="KEY,...",
        help="Keys of summary.json, or attainment, goodput, throughput; the first counts most.",
        show_default="attainment,throughput,p99_ttft_ms; without targets not the first",
    ),
]
Params = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...",
        help="Parameters of the scheduler to vary.",
        show_default="its numbers and words",
    ),
]
SpaceFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="TOML file of ranges and choices for any setting.",
        show_default="from the scheduler's parameters",
    ),
]
SearchSeed = Annotated[
    int, typer.Option(metavar="S", min=0, help="Seed of the search for settings.")
]
Batch = Annotated[
    int,
    typer.Option(metavar="N", min=1, help="Trials drawn at a time, on what all before gave."),
]
Storage = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="SQLite file of the trials; one that is there goes on.",
        show_default="study.db in --out",
    ),
]


@with_config_options
def tune(
    options: ConfigOptions,
    study: StudyOptions,
    scheduler: Scheduler = None,
    trials: Trials = 40,
    objectives: Objectives = None,
    params: Params = None,
    space: SpaceFile = None,
    search_seed: SearchSeed = 0,
    batch: Batch = 4,
    storage: Storage = None,
) -> None:
    """Look for settings of a scheduler that no others beat; needs the extra `tune`."""
    from sim.studies.tune import TuneWish, tune_command

    def config_at(extra: Mapping[str, Value]) -> Config:
        return options.load_at(extra, scheduler)

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
