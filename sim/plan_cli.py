"""The options of `superinfer-sim plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.options import Concurrency, Dial, Duration, Model, Router, Seed, Spread
from superinfer.errors import ConfigError
from superinfer.lab.options import (
    AsJson,
    Classes,
    ConfigFile,
    Lag,
    Limit,
    Memory,
    NoPlots,
    PrefixCaching,
    RateScale,
    Scheduler,
    Settings,
    SkipBad,
    Trace,
)


def plan(
    trace: Trace = None,
    device: Annotated[
        str, typer.Option(metavar="NAME,NAME,...", help="Device presets to choose from.")
    ] = "a100-80g",
    tp: Annotated[
        str, typer.Option(metavar="N,N,...", help="Degrees of tensor parallelism to try.")
    ] = "1,2,4,8",
    attainment: Annotated[
        float, typer.Option(metavar="A", min=1, max=100, help="Share that is to meet it, in %.")
    ] = 95.0,
    max_gpus: Annotated[
        int, typer.Option(metavar="N", min=1, max=4096, help="Most GPUs of one candidate.")
    ] = 64,
    prices: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML prices per GPU-hour.", show_default="examples"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder; that of a plan which was stopped goes on.",
            show_default="runs/<trace>-plan-<time>",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(metavar="N", min=0, help="Processes; 0: one per core.")
    ] = 0,
    scheduler: Scheduler = None,
    router: Router = None,
    memory: Memory = None,
    model: Model = None,
    seed: Seed = None,
    prefix_caching: PrefixCaching = None,
    lag: Lag = None,
    config: ConfigFile = None,
    settings: Settings = None,
    classes: Classes = None,
    as_json: AsJson = False,
    no_plots: NoPlots = False,
    skip_bad: SkipBad = None,
    concurrency: Concurrency = None,
    duration: Duration = None,
    rate_scale: RateScale = None,
    limit: Limit = None,
    spread: Spread = None,
    dial: Dial = None,
) -> None:
    """Find the fewest GPUs with which a workload meets its targets, and what they cost."""
    from sim.plan import PlanWish, plan_command
    from superinfer.lab.config import load_config

    chosen = load_config(
        config,
        settings or (),
        classes,
        trace=trace,
        scheduler=scheduler,
        router=router,
        memory=memory,
        model=model,
        seed=seed,
        prefix_caching=prefix_caching,
        lag=lag,
        skip_bad=skip_bad,
        concurrency=concurrency,
        duration_s=duration,
        rate_scale=rate_scale,
        limit=limit,
        spread=spread,
        dial=dial,
    )
    wish = PlanWish(
        devices=_names(device),
        degrees=_degrees(tp),
        attainment=attainment / 100,
        most_gpus=max_gpus,
        prices=prices,
        out=out,
        as_json=as_json,
        plots=not no_plots,
        workers=workers,
    )
    raise typer.Exit(plan_command(chosen, wish))


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
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
