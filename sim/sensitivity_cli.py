"""The options of `superinfer-sim sensitivity`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.options import Concurrency, Device, Dial, Duration, Model, Out, Seed, Spread, Tp
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
    Settings,
    SkipBad,
    Trace,
    WithoutSlo,
)

if TYPE_CHECKING:
    from superinfer.lab.config import Config


def sensitivity(
    trace: Trace = None,
    schedulers: Annotated[
        str | None,
        typer.Option(
            help="Two schedulers, comma separated.", show_default="vllm,rotating; none with --arm"
        ),
    ] = None,
    arm: Annotated[
        list[Path] | None,
        typer.Option("--arm", metavar="FILE", help="TOML configuration to lay over --config."),
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            help="Key of summary.json that decides.",
            show_default="slo_attainment, or p99_ttft_ms without targets",
        ),
    ] = "",
    by: Annotated[
        float, typer.Option(metavar="P", min=0.1, max=90, help="Size of the errors, in %.")
    ] = 10.0,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="A kernel, host, links, length estimate, burstiness.", show_default="all"
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(metavar="N", min=1, help="Runs per arm, for a specification as TRACE.")
    ] = 1,
    workers: Annotated[
        int, typer.Option(metavar="N", min=0, help="Processes; 0: one per core.")
    ] = 0,
    memory: Memory = None,
    model: Model = None,
    device: Device = None,
    tp: Tp = None,
    seed: Seed = None,
    prefix_caching: PrefixCaching = None,
    lag: Lag = None,
    out: Out = None,
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
    without_slo: WithoutSlo = None,
    dial: Dial = None,
) -> None:
    """Find out whether the better of two schedulers stays so when parts of the model are wrong."""
    from sim.compare import load_arms
    from sim.sensitivity import Question, sensitivity_command
    from superinfer.lab.config import load_config

    def load(file: Path | None, scheduler: str | None) -> Config:
        return load_config(
            [path for path in (config, file) if path is not None],
            settings or (),
            classes,
            trace=trace,
            scheduler=scheduler,
            memory=memory,
            model=model,
            device=device,
            tp=tp,
            seed=seed,
            prefix_caching=prefix_caching,
            lag=lag,
            skip_bad=skip_bad,
            concurrency=concurrency,
            duration_s=duration,
            rate_scale=rate_scale,
            limit=limit,
            spread=spread,
            without_slo=without_slo,
            dial=dial,
        )

    if schedulers is None:
        schedulers = "" if arm else "vllm,rotating"
    names = [name.strip() for name in schedulers.split(",") if name.strip()]
    arms = load_arms(names, arm or (), load, "sensitivity")
    question = Question(
        metric, by / 100, tuple(part or ()), seeds, workers, out, as_json, not no_plots
    )
    raise typer.Exit(sensitivity_command(arms, question))
