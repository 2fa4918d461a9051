"""`superinfer-exec calibrate`: measure a device and write a profile of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from executor.options import ClockName, LoadingOptions, Model, OwnDevice, with_options


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
) -> None:
    """Measure kernels, copies and host work, and write the profile that the simulator reads."""
    from executor.calibration.calibrate import calibrate as run
    from executor.calibration.report import profile_lines
    from executor.calibration.subject import Wish
    from executor.device import default_device
    from executor.session import TINY
    from superinfer.costs.profile_file import write_profile
    from superinfer.outputs import check_writable

    check_writable(out or Path("profile.json"), file=True)
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
    profile = run(wish, lambda text: print(text, file=sys.stderr, flush=True)).profile
    path = out or Path(f"{profile.device}_{profile.model}_tp{profile.tp}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_profile(profile, path)
    for line in profile_lines(profile):
        print(line)
    print(f"profile in {path}", file=sys.stderr)
