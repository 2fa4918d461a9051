"""`superinfer-exec`: the same schedulers and memory policies on a real device.

Exit codes: 0 ok, 1 run failed, 2 usage or bad input, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from executor.timers import CLOCK_HELP
from superinfer.errors import SuperInferError
from superinfer.lab.complaints import close_stdout, complain, complain_of_usage
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
    Scheduler,
    Settings,
    SkipBad,
    Trace,
    WithoutSlo,
)

INTERRUPTED = 130
MORE_COMMANDS = (
    "executor.bench.cli",
    "executor.calibration.cli",
    "executor.quality_cli",
    "executor.validation.cli",
)
"""Modules with a function `register(app)`."""

app = typer.Typer(
    help="Run models on a device with the schedulers and KV memory policies of SuperInfer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[
    str | None,
    typer.Option(help="Folder with safetensors, config.json, or preset.", show_default="tiny"),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, or the preset of the GPU.", show_default="cuda if there is one"),
]
Dtype = Annotated[
    str,
    typer.Option(help="float32, float16, bfloat16.", show_default="bfloat16; float32 on a CPU"),
]
Int8 = Annotated[bool, typer.Option("--int8", help="Keep weights in 8 bits.")]
RandomWeights = Annotated[
    bool, typer.Option("--random-weights", help="Draw the weights; needs no files but sizes.")
]
Graphs = Annotated[
    bool,
    typer.Option("--graphs/--no-graphs", help="CUDA graphs for steps."),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Of weights, prompts and sampling.")]
KvBlocks = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="KV blocks.", show_default="what fits on the device"),
]
BlockTokens = Annotated[
    int | None, typer.Option(help="Tokens of a block: 16, 32, 64.", show_default="the scheduler's")
]
MaxModelLen = Annotated[
    int | None, typer.Option(min=1, help="Longest context.", show_default="the model's")
]


@app.command()
def run(
    trace: Trace = None,
    scheduler: Scheduler = None,
    memory: Memory = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = "",
    int8: Int8 = False,
    random_weights: RandomWeights = False,
    tp: Annotated[
        int | None,
        typer.Option("--tp", min=1, help="GPUs that share the model.", show_default="1"),
    ] = None,
    kv_blocks: KvBlocks = None,
    block_tokens: BlockTokens = None,
    max_model_len: MaxModelLen = None,
    prefix_caching: PrefixCaching = None,
    lag: Lag = None,
    limit: Limit = None,
    as_fast_as_possible: Annotated[
        bool, typer.Option("--as-fast-as-possible", help="Leave out times with nothing to do.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Result folder.", show_default="runs/<trace>-exec-<scheduler>-<time>"),
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    classes: Classes = None,
    rate_scale: RateScale = None,
    without_slo: WithoutSlo = None,
    skip_bad: SkipBad = None,
    seed: Seed = None,
    graphs: Graphs = True,
    clock: Annotated[str, typer.Option(help=CLOCK_HELP)] = "wall",
    as_json: AsJson = False,
    no_plots: NoPlots = False,
) -> None:
    """Replay a trace on a device and write the same result folder as the simulator."""
    from executor.defaults import device_and_model
    from executor.replay import RunOptions, run_command
    from executor.session import ModelOptions
    from superinfer.lab.config import load_config

    chosen = load_config(
        config,
        settings or (),
        classes,
        trace=trace,
        scheduler=scheduler,
        memory=memory,
        tp=tp,
        kv_blocks=kv_blocks,
        block_tokens=block_tokens,
        max_model_len=max_model_len,
        prefix_caching=prefix_caching,
        lag=lag,
        limit=limit,
        rate_scale=rate_scale,
        without_slo=without_slo,
        skip_bad=skip_bad,
        seed=seed,
        **device_and_model(device, model, config, settings or ()),
    )
    loading = ModelOptions(dtype, int8, random_weights, graphs)
    options = RunOptions(loading, out, as_json, not no_plots, as_fast_as_possible, clock)
    raise typer.Exit(run_command(chosen, options))


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="Text to go on from; - for stdin.")],
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
    model: Model = None,
    device: Device = None,
    dtype: Dtype = "",
    int8: Int8 = False,
    random_weights: RandomWeights = False,
    max_model_len: MaxModelLen = None,
    seed: Seed = None,
    graphs: Graphs = True,
) -> None:
    """Let a model go on from a prompt, and print the text as it comes."""
    from executor.generate import Wish, generate_command
    from executor.sampler import Sampling
    from executor.session import ModelOptions

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
    loading = ModelOptions(dtype, int8, random_weights, graphs)
    raise typer.Exit(generate_command(wish, loading, seed or 0))


@cache
def application() -> typer.Typer:
    """The program with all of its commands."""
    for name in MORE_COMMANDS:
        importlib.import_module(name).register(app)
    return app


def main() -> None:
    """Entry point: one line for a user's mistake, and the exit codes above."""
    sys.path.append(os.getcwd())  # for schedulers given as package.module:Class
    try:
        code = int(application()(prog_name="superinfer-exec", standalone_mode=False) or 0)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except SuperInferError as error:
        code = complain(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("torch", "triton", "safetensors"):
            raise
        code = complain(f"{error.name} is missing: pip install 'superinfer[exec]'", 2)
    except BrokenPipeError:
        code = 1
        close_stdout()
    except (OSError, MemoryError) as error:
        code = complain(str(error) or "out of memory", 1)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        code = complain_of_usage(error, "superinfer-exec")
    sys.exit(code)


if __name__ == "__main__":
    main()
