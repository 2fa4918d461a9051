"""`superinfer-exec calibrate`: measure a device and write a profile of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from executor.options import ClockName, LoadingOptions, Model, OwnDevice, with_options
from superinfer.lab.cli.options import AsJson
from superinfer.lab.cli.terminal import say

if TYPE_CHECKING:
    from superinfer.costs.profile import Profile


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(calibrate)


@with_options("graphs")
def calibrate(
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            "--out",
            metavar="FILE",
            help="Profile.",
            show_default="<device>_<model>_tp1.json",
        ),
    ] = None,
    model: Model = None,
    device: OwnDevice = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="Time for all of it, about.")] = 8.0,
    *,
    loading: LoadingOptions,
    block_tokens: Annotated[int, typer.Option(help="Tokens of a block: 16, 32, 64.")] = 32,
    max_model_len: Annotated[int, typer.Option(min=0, help="Longest context; 0: the model's.")] = 0,
    max_sequences: Annotated[
        int, typer.Option(min=0, help="Most sequences of a step; 0: 256, on a CPU 64.")
    ] = 0,
    kv_blocks: Annotated[int, typer.Option(min=0, help="KV blocks; 0: what fits.")] = 0,
    clock: ClockName = "wall",
    as_json: AsJson = False,
) -> None:
    """Measure kernels, copies and host work, and write the profile that the simulator reads."""
    from executor.calibration.calibrate import calibrate as run
    from executor.calibration.files import store
    from executor.calibration.report import profile_json, profile_lines, simulation_of
    from executor.calibration.subject import Wish
    from executor.device import default_device
    from executor.session import TINY, source_of
    from superinfer.costs.shapes import shape_file
    from superinfer.outputs import check_writable

    check_writable(out or Path("profile.json"), file=True, inputs=[shape_file(model or TINY)])
    wish = Wish(
        model or TINY,
        device or default_device(),
        loading.chosen(),
        minutes,
        block_tokens,
        max_model_len,
        max_sequences,
        kv_blocks,
        clock=clock,
    )
    known: list[Profile] = []
    try:
        profile = run(wish, say, known.append).profile
    except KeyboardInterrupt:
        say(_kept(known, out))
        raise
    path = _place(profile, out)
    store(profile, path)
    model_name = str(source_of(wish.model))
    if as_json:
        print(json.dumps(profile_json(profile, path, model_name), indent=2))
    else:
        for line in profile_lines(profile):
            print(line)
    say(f"profile in {path}")
    say(f"to simulate by it: {simulation_of(profile, path, model_name)}")


def _place(profile: Profile, out: Path | None) -> Path:
    return out or Path(f"{profile.device}_{profile.model}_tp{profile.tp}.json")


def _kept(known: list[Profile], out: Path | None) -> str:
    """Write what was known at Ctrl-C beside where the profile was to be, and say so: one from an
    earlier calibration is worth more.
    """
    from executor.calibration.files import WITHOUT_STEPS, part_of, store

    if not known:
        return "nothing is kept: not all kernels and copies were measured yet"
    path = _place(known[-1], out)
    if path.exists() and not path.is_file():
        return f"nothing is kept: {path} is no file"
    store(known[-1], part_of(path))
    return f"kept in {part_of(path)}: a profile {WITHOUT_STEPS}"
