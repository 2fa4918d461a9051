"""`superinfer-exec validate`: the same trace on the device and in the simulator."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from superinfer.errors import ConfigError

GATE = 3
"""Exit code where an error is above `--max-error`, or where another policy wins."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(validate)


def validate(
    trace: Annotated[str, typer.Argument(metavar="TRACE", help="Trace that both run.")],
    profile: Annotated[
        Path, typer.Option("--profile", help="Profile of this device (`calibrate` writes one).")
    ],
    scheduler: Annotated[
        list[str] | None, typer.Option(help="Scheduler; may be given again.", show_default="vllm")
    ] = None,
    model: Annotated[str, typer.Option(help="As for `run`.")] = "tiny",
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda.", show_default="cuda if there is one")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs on the device; medians count.")] = 1,
    max_error: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Largest error of a mean; twice that for a P99; same winners. Else exit 3.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path("runs/validate"),
    option: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="'--NAME VALUE'", help="Passed on to `run` on the device."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False,
    no_plots: Annotated[bool, typer.Option("--no-plots", help="Write no pictures.")] = False,
) -> None:
    """Run a trace on the device and in the simulator with this profile, and compare."""
    import shlex

    from executor.device import default_device
    from executor.validation.validate import Outcome, Wish, gate, validate_all, winners
    from superinfer.costs.profile_file import load_profile
    from superinfer.outputs import check_writable

    names = tuple(scheduler or ("vllm",))
    _refuse(trace, names)
    load_profile(profile)  # the runs read it again, each by itself
    check_writable(out / "device")
    try:
        more = [part for text in option or () for part in shlex.split(text)]
    except ValueError as error:
        raise ConfigError(f"--run: {error}") from None
    chosen = ["--model", model, "--device", device or default_device(), *more]
    wish = Wish(trace, profile, names, tuple(chosen), repeats, out)
    outcomes: list[Outcome] = validate_all(wish, lambda text: print(text, file=sys.stderr))
    if not no_plots:
        for outcome in outcomes:
            print(f"picture in {outcome.plot(out)}", file=sys.stderr)
    if as_json:
        print(json.dumps([outcome.row(max_error) for outcome in outcomes], indent=2))
    else:
        for outcome in outcomes:
            print("\n".join(outcome.lines(max_error)))
    for verdict in winners(outcomes):
        print(verdict.line, file=sys.stderr if as_json else sys.stdout)
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
