"""`superinfer-exec validate`: the same trace on the device and in the simulator."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from executor.options import JsonAlone, Model, OwnDevice
from superinfer.errors import ConfigError
from superinfer.lab.cli.options import NoPlots
from superinfer.lab.cli.terminal import say
from traces.printing import print_out

if TYPE_CHECKING:
    from executor.validation.validate import Outcome

GATE = 3
"""Exit code where an error is above `--max-error`, or where another policy wins."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(validate)


def validate(
    trace: Annotated[str, typer.Argument(metavar="TRACE", help="Trace that both run.")],
    profile: Annotated[
        Path,
        typer.Option(
            "--profile", metavar="FILE", help="Profile of this device (`calibrate` writes one)."
        ),
    ],
    scheduler: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Scheduler; may be given again.", show_default="vllm"),
    ] = None,
    model: Model = None,
    device: OwnDevice = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs on the device; medians count.")] = 1,
    max_error: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Largest error of a mean; twice that for a P99; same winners. Else exit 3.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FOLDER", help="Folder of results.")
    ] = Path("runs/validate"),
    option: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="'--NAME VALUE'", help="Passed on to `run` on the device."),
    ] = None,
    as_json: JsonAlone = False,
    no_plots: NoPlots = False,
) -> None:
    """Run a trace on the device and in the simulator with this profile, and compare."""
    from executor.device import default_device
    from executor.session import TINY
    from executor.validation.validate import Wish, gate, validate_all
    from superinfer.costs.profile_file import load_profile
    from superinfer.outputs import check_writable

    names = tuple(scheduler or ("vllm",))
    _refuse(trace, names)
    load_profile(profile)  # the runs read it again, each by itself
    check_writable(out)
    check_writable(out / "device")
    more = _words(option or ())
    chosen = ("--model", model or TINY, "--device", device or default_device(), *more)
    wish = Wish(trace, profile, names, chosen, repeats, out)
    outcomes = validate_all(wish, say)
    if not no_plots:
        for outcome in outcomes:
            say(f"picture in {outcome.plot(out)}")
    _show(outcomes, max_error, as_json)
    if max_error is not None and not gate(outcomes, max_error):
        raise typer.Exit(GATE)


def _refuse(trace: str, schedulers: tuple[str, ...]) -> None:
    """What no run could make good; before the device is touched."""
    from superinfer.lab.config import load_config

    if trace == "-":
        raise ConfigError("TRACE: expected a file, because both sides read it, got -")
    for name in schedulers:
        if schedulers.count(name) > 1:
            raise ConfigError(f"--scheduler {name}: given twice")
        if ":" not in name:  # a class of the user's may need settings of the runs
            load_config(None, (), scheduler=name).build_scheduler()


def _words(options: Sequence[str]) -> list[str]:
    """The words of each --run, as a shell takes them apart."""
    try:
        return [word for text in options for word in shlex.split(text)]
    except ValueError as error:
        raise ConfigError(f"--run: {error}") from None


def _show(outcomes: list[Outcome], max_error: float | None, as_json: bool) -> None:
    """Print each outcome, and who wins: beside JSON on stderr."""
    from executor.validation.validate import winners

    if as_json:
        print_out(json.dumps([outcome.row(max_error) for outcome in outcomes], indent=2))
    else:
        for outcome in outcomes:
            print_out("\n".join(outcome.lines(max_error)))
    for verdict in winners(outcomes):
        (say if as_json else print_out)(verdict.line)
