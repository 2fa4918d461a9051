"""The options of `superinfer-sim plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.cli.bundles import with_config_options_but
from sim.cli.options import Attainment, ConfigOptions, StudyOptions, names_in
from superinfer.errors import ConfigError
from superinfer.lab.cli.options import Scheduler


@with_config_options_but("device", "tp", "replicas", "without_slo", "engine", "address")
def plan(
    options: ConfigOptions,
    study: StudyOptions,
    scheduler: Scheduler = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME,...",
            help="Presets or TOML files to choose from.",
            show_default="that of --config, else a100-80g",
        ),
    ] = None,
    tp: Annotated[
        str, typer.Option(metavar="N,N,...", help="Degrees of tensor parallelism to try.")
    ] = "1,2,4,8",
    attainment: Attainment = 95.0,
    max_gpus: Annotated[
        int, typer.Option(metavar="N", min=1, max=4096, help="Most GPUs of one candidate.")
    ] = 64,
    prices: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML prices per GPU-hour.", show_default="examples"),
    ] = None,
) -> None:
    """Find the fewest GPUs with which a workload meets its targets, and what they cost."""
    from sim.studies.candidates import PlanWish
    from sim.studies.plan import plan_command

    config = options.load(run={"scheduler": scheduler})
    wish = PlanWish(
        devices=(config.run.device,) if device is None else _names(device),
        degrees=_degrees(tp),
        attainment=attainment / 100,
        most_gpus=max_gpus,
        prices=prices,
        seeds=study.seeds,
        out=study.out,
        as_json=study.as_json,
        plots=not study.no_plots,
        workers=study.workers,
    )
    raise typer.Exit(plan_command(config, wish))


def _names(text: str) -> tuple[str, ...]:
    names = names_in(text)
    if not names:
        raise ConfigError(f"--device: expected names of devices, got {text!r}")
    return names


def _degrees(text: str) -> tuple[int, ...]:
    try:
        degrees = tuple(int(part) for part in text.split(","))
    except ValueError:
        degrees = ()
    if not degrees or min(degrees) < 1:
        raise ConfigError(f"--tp: expected whole numbers above 0, got {text!r}")
    return degrees
