"""The options of `superinfer-sim sensitivity`."""

from __future__ import annotations

from typing import Annotated

import typer

from sim.options import (
    Arm,
    ConfigOptions,
    Out,
    Seeds,
    Workers,
    load_arms,
    with_config_options,
)
from superinfer.lab.options import AsJson, NoPlots


@with_config_options
def sensitivity(
    options: ConfigOptions,
    schedulers: Annotated[
        str | None,
        typer.Option(
            help="Two schedulers, comma separated.", show_default="vllm,rotating; none with --arm"
        ),
    ] = None,
    arm: Arm = None,
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
    seeds: Seeds = 1,
    workers: Workers = 0,
    out: Out = None,
    as_json: AsJson = False,
    no_plots: NoPlots = False,
) -> None:
    """Find out whether the better of two schedulers stays so when parts of the model are wrong."""
    from sim.sensitivity import Question, sensitivity_command

    arms = load_arms(options, schedulers, arm, "vllm,rotating", "sensitivity")
    question = Question(
        metric, by / 100, tuple(part or ()), seeds, workers, out, as_json, not no_plots
    )
    raise typer.Exit(sensitivity_command(arms, question))
