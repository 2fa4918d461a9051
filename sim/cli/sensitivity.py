"""The options of `superinfer-sim sensitivity`."""

from __future__ import annotations

from typing import Annotated

import typer

from sim.cli.bundles import with_config_options
from sim.cli.options import (
    Arm,
    ComparisonOptions,
    ConfigOptions,
    load_arms,
)

Schedulers = Annotated[
    str | None,
    typer.Option(
        help="Two schedulers, comma separated.", show_default="vllm,rotating; none with --arm"
    ),
]
Metric = Annotated[
    str,
    typer.Option(
        help="Key of summary.json that decides.",
        show_default="slo_attainment, or p99_ttft_ms without targets",
    ),
]
By = Annotated[float, typer.Option(metavar="P", min=0.1, max=90, help="Size of the errors, in %.")]
Parts = Annotated[
    list[str] | None,
    typer.Option(help="A kernel, host, links, length estimate, burstiness.", show_default="all"),
]


@with_config_options
def sensitivity(
    options: ConfigOptions,
    study: ComparisonOptions,
    schedulers: Schedulers = None,
    arm: Arm = None,
    metric: Metric = "",
    by: By = 10.0,
    part: Parts = None,
) -> None:
    """Find out whether the better of two schedulers stays so when parts of the model are wrong."""
    from sim.studies.sensitivity import Question, sensitivity_command

    arms = load_arms(options, schedulers, arm, "vllm,rotating", "sensitivity")
    question = Question(
        metric,
        by / 100,
        tuple(part or ()),
        study.seeds,
        study.workers,
        study.out,
        study.as_json,
        not study.no_plots,
    )
    raise typer.Exit(sensitivity_command(arms, question))
