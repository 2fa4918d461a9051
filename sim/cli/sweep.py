"""The options of `superinfer-sim sweep`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.bundles import with_config_options
from sim.cli.options import (
    Arm,
    Attainment,
    ConfigOptions,
    StudyOptions,
    scheduler_names,
)
from superinfer.errors import ConfigError

if TYPE_CHECKING:
    from superinfer.lab.config import Config
    from superinfer.lab.studies.axes import Value

DEFAULT_AXIS = "rate=0.5:1.5:0.25"

Over = Annotated[
    list[str] | None,
    typer.Option(
        "--over",
        metavar="NAME=VALUES",
        help="What is varied: rate, slo, burstiness, kv_blocks, link or a key such as "
        "scheduler.max_num_seqs; values as a,b or from:to:step or from:to:xFACTOR. "
        "Several make a grid.",
        show_default=DEFAULT_AXIS,
    ),
]
Schedulers = Annotated[
    str | None,
    typer.Option(
        help="Schedulers, comma separated, or all.",
        show_default="vllm,rotating; none with --arm",
    ),
]
Refine = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        min=0.1,
        max=50,
        help="Close in to P % on the rate up to which all keep --attainment, also beyond --over.",
        show_default="the rates of --over alone",
    ),
]


@with_config_options
def sweep(
    options: ConfigOptions,
    study: StudyOptions,
    over: Over = None,
    schedulers: Schedulers = None,
    arm: Arm = None,
    attainment: Attainment = 95.0,
    refine: Refine = None,
) -> None:
    """Run schedulers over a grid of settings; find the peak goodput within the targets."""
    from sim.studies.arms import named_arms
    from sim.studies.sweep import SweepArm, SweepWish, sweep_command
    from superinfer.lab.studies.axes import parse_axes

    def arm_of(file: Path | None, scheduler: str | None) -> SweepArm:
        def load(extra: Mapping[str, Value]) -> Config:
            return options.load_at(extra, scheduler, file)

        load({})  # what an axis takes the place of is not to be nonsense either
        return load

    wish = SweepWish(
        axes=tuple(parse_axes(over or [DEFAULT_AXIS])),
        attainment=attainment / 100,
        refine=(refine or 0.0) / 100,
        seeds=study.seeds,
        engine=study.make_engine(),
        out=study.out,
        as_json=study.as_json,
        plots=not study.no_plots,
    )
    names = scheduler_names(schedulers, arm, "vllm,rotating")
    arms = {
        name: arm_of(file, scheduler)
        for name, file, scheduler in named_arms(names, arm or (), "sweep")
    }
    for axis in wish.axes:
        if option := options.gives(axis.key):
            usual = "" if over else f"={DEFAULT_AXIS} unless given"
            values = f"{axis.name} is an axis (--over{usual}), which gives the values"
            raise ConfigError(f"{option}: expected none: {values}")
    raise typer.Exit(sweep_command(arms, wish))
