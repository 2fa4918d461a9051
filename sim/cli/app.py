"""`superinfer-sim`: run and compare schedulers on a trace, in simulated time.

Exit codes: 0 ok, 1 run failed, 2 usage or bad input, 3 a `--require` gate failed, 130 interrupted.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from sim.cli.bundles import with_config_options
from sim.cli.cache import cache_study, train_reuse
from sim.cli.check import check_policy
from sim.cli.options import (
    Arm,
    Attainment,
    ComparisonOptions,
    ConfigOptions,
    Out,
    Require,
    Target,
    load_arms,
)
from sim.cli.plan import plan
from sim.cli.profiles import app as profiles_app
from sim.cli.report import report
from sim.cli.sensitivity import sensitivity
from sim.cli.sweep import sweep
from sim.cli.tune import tune
from superinfer.lab.cli.complaints import run_program
from superinfer.lab.cli.options import AsJson, NoPlots, Scheduler, with_version
from traces.cli.app import app as traces_app

app = typer.Typer(
    help="Simulate LLM serving: schedulers, KV memory and SLOs on real traces.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: nothing is cut off, and it starts faster
)
app.add_typer(traces_app, name="traces")
app.add_typer(profiles_app, name="profiles")
with_version(app)


@app.command()
@with_config_options
def run(
    options: ConfigOptions,
    scheduler: Scheduler = None,
    out: Out = None,
    require: Require = None,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="Write timeline.json, for Perfetto or Chrome.")
    ] = False,
    as_json: AsJson = False,
    no_plots: NoPlots = False,
) -> None:
    """Simulate one scheduler on a trace and write a result folder."""
    from sim.commands import RunOptions, run_command

    chosen = options.load(run={"scheduler": scheduler})
    wish = RunOptions(out, tuple(require or ()), as_json, not no_plots, timeline)
    raise typer.Exit(run_command(chosen, wish))


@app.command()
@with_config_options
def compare(
    options: ConfigOptions,
    study: ComparisonOptions,
    schedulers: Annotated[
        str | None,
        typer.Option(
            help="Schedulers, comma separated, or all; the first is the reference.",
            show_default="vllm,fcfs,priority,rotating; none with --arm",
        ),
    ] = None,
    arm: Arm = None,
) -> None:
    """Simulate several schedulers on the same trace and show the differences."""
    from sim.commands import RunOptions
    from sim.studies.compare import compare_command

    arms = load_arms(options, schedulers, arm, "vllm,fcfs,priority,rotating", "compare")
    wish = RunOptions(study.out, (), study.as_json, not study.no_plots)
    raise typer.Exit(compare_command(arms, wish, study.seeds, study.workers))


@with_config_options
def suggest_slo(
    options: ConfigOptions,
    scheduler: Scheduler = None,
    quantile: Annotated[
        float, typer.Option(metavar="P", min=1, max=99.99, help="Quantile to promise, in %.")
    ] = 95.0,
    margin: Annotated[
        float, typer.Option(metavar="M", min=0, max=1000, help="Room above it, in %.")
    ] = 20.0,
    attainment: Attainment = 95.0,
    only: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME", help="Only this class.", show_default="all"),
    ] = None,
    target: Annotated[
        list[Target] | None,
        typer.Option(help="Which target.", show_default="those stated, else ttft_ms and tpot_ms"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="TOML file for --classes.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Propose targets per class that are kept at a load, and warn of those that never can be."""
    from sim.studies.suggest import Wish, suggest_command

    wish = Wish(
        quantile / 100,
        margin / 100,
        attainment / 100,
        tuple(only or ()),
        tuple(each.value for each in target or ()),
        output,
        as_json,
        tuple(file for file in (options.config, options.classes) if file is not None),
    )
    raise typer.Exit(suggest_command(options.load(run={"scheduler": scheduler}), wish))


# In the order of the help: as a user meets them. `run` and `compare` are above.
app.command("sweep")(sweep)
app.command("tune")(tune)
app.command("plan")(plan)
app.command("suggest-slo")(suggest_slo)
app.command("sensitivity")(sensitivity)
app.command("report")(report)
app.command("check-policy")(check_policy)
app.command("cache-study")(cache_study)
app.command("train-reuse")(train_reuse)


def main() -> None:
    """Entry point: one line for a user's mistake, and the exit codes above."""
    atexit.register(gc.freeze)  # all memory goes at exit: no need to look for cycles in it first
    _mend_streams()
    if os.getcwd() not in sys.path:  # for schedulers given as package.module:Class
        sys.path.append(os.getcwd())
    sys.exit(run_program(app, "superinfer-sim"))


# -- inside ---------------------------------------------------------------------------------------


def _mend_streams() -> None:
    """Print what the terminal's encoding lacks as escapes; a closed stream takes everything."""
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _nowhere() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8")


if __name__ == "__main__":
    main()
