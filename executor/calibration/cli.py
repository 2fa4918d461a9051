"""`superinfer-exec calibrate`: measure a device and write a profile of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from executor.timers import CLOCK_HELP


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(calibrate)


def calibrate(
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Profile.", show_default="<device>_<model>_tp1.json"),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Folder with safetensors, config.json, or preset.")
    ] = "tiny",
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda.", show_default="cuda if there is one")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="Time for all of it, about.")] = 8.0,
    dtype: Annotated[
        str,
        typer.Option(help="float32, float16, bfloat16.", show_default="bfloat16; float32 on a CPU"),
    ] = "",
    int8: Annotated[bool, typer.Option("--int8", help="Keep weights in 8 bits.")] = False,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Draw the weights; needs no files but sizes.")
    ] = False,
    block_tokens: Annotated[int, typer.Option(help="Tokens of a block: 16, 32, 64.")] = 32,
    max_model_len: Annotated[int, typer.Option(min=0, help="Longest context; 0: the model's.")] = 0,
    max_sequences: Annotated[
        int, typer.Option(min=0, help="Most sequences of a step; 0: 256, on a CPU 64.")
    ] = 0,
    kv_blocks: Annotated[int, typer.Option(min=0, help="KV blocks; 0: what fits.")] = 0,
    clock: Annotated[str, typer.Option(help=CLOCK_HELP)] = "wall",
) -> None:
    """Measure kernels, copies and host work, and write the profile that the simulator reads."""
    from executor.calibration.calibrate import calibrate as run
    from executor.calibration.report import profile_lines
    from executor.calibration.subject import Wish
    from executor.device import default_device
    from executor.session import ModelOptions
    from superinfer.costs.profile_file import write_profile
    from superinfer.outputs import check_writable

    check_writable(out or Path("profile.json"), file=True)
    wish = Wish(
        model,
        device or default_device(),
        ModelOptions(dtype, int8, random_weights),
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
