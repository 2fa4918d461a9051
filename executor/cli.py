"""`superinfer-exec`: the same schedulers and memory policies on a real device.

Exit codes: 0 ok, 1 run failed, 2 usage or bad input, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from executor.options import (
    ClockName,
    ConfigOptions,
    Device,
    LoadingOptions,
    MaxModelLen,
    Model,
    Seed,
    with_options,
)
from superinfer.errors import ConfigError
from superinfer.lab.cli.complaints import close_stdout, run_program
from superinfer.lab.cli.options import AsJson, NoPlots, with_version

MORE_COMMANDS = (
    "executor.bench.cli",
    "executor.calibration.cli",
    "executor.quality.cli",
    "executor.serving.cli",
    "executor.validation.cli",
)
"""Modules with a function `register(app)`."""

_SERVER = ("fastapi", "jinja2", "prometheus_client", "pydantic", "starlette", "uvicorn")
EXTRAS = {
    **dict.fromkeys(("torch", "triton", "safetensors"), "exec"),
    **dict.fromkeys(_SERVER, "exec,server"),
}
"""What installs a library that is missing."""

app = typer.Typer(
    help="Run models on a device with the schedulers and KV memory policies of SuperInfer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
with_version(app)


@app.command()
@with_options()
def run(
    options: ConfigOptions,
    loading: LoadingOptions,
    as_fast_as_possible: Annotated[
        bool, typer.Option("--as-fast-as-possible", help="Leave out times with nothing to do.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FOLDER",
            help="Result folder; if it exists, -2 is added.",
            show_default="runs/<trace>-exec-<scheduler>-<time>",
        ),
    ] = None,
    clock: ClockName = "wall",
    as_json: AsJson = False,
    no_plots: NoPlots = False,
) -> None:
    """Replay a trace on a device and write the same result folder as the simulator."""
    from executor.replay import RunOptions, run_command

    how = RunOptions(loading.chosen(), out, as_json, not no_plots, as_fast_as_possible, clock)
    raise typer.Exit(run_command(options.load(), how))


@app.command()
@with_options()
def generate(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="Text to go on from; - for stdin.")
    ],
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of the answer.")] = 128,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Only the K likeliest tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Only the likeliest with this share.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Only those with this part of the best.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: less of the same.")] = 1.0,
    presence_penalty: Annotated[float, typer.Option(help="Off tokens that were said.")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="The same, each time.")] = 0.0,
    stop: Annotated[
        list[str] | None, typer.Option(help="Text that ends the answer.", metavar="TEXT")
    ] = None,
    *,
    model: Model = None,
    device: Device = None,
    loading: LoadingOptions,
    max_model_len: MaxModelLen = None,
    seed: Seed = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON alone, when all of the text is there.")
    ] = False,
) -> None:
    """Let a model go on from a prompt, and print the text as it comes."""
    from executor.generate import Wish, generate_command
    from executor.steps.sampler import Sampling

    sampling = Sampling(
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
        seed or 0,
    )
    wish = Wish(prompt, max_tokens, sampling, tuple(stop or ()), model, device, max_model_len)
    raise typer.Exit(generate_command(wish, loading.chosen(), seed or 0, as_json))


@cache
def application() -> typer.Typer:
    """The program with all of its commands."""
    for name in MORE_COMMANDS:
        importlib.import_module(name).register(app)
    return app


def main() -> None:
    """Entry point: one line for a user's mistake, and the exit codes above."""
    sys.path.append(os.getcwd())  # for schedulers given as package.module:Class
    sys.exit(run_program(_program, "superinfer-exec"))


# -- inside ---------------------------------------------------------------------------------------


def _program(**options: Any) -> Any:
    """The program, which ends quietly when its reader goes away; ConfigError that says what to
    install where a library is missing.
    """
    try:
        return application()(**options)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        missing = f"{error.name} is missing: pip install 'superinfer[{extra}]'"
        raise ConfigError(missing) from error
    except BrokenPipeError:
        close_stdout()
        return 1


if __name__ == "__main__":
    main()
