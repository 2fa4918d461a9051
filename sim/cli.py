"""`superinfer-sim`: run and compare schedulers on a trace, in simulated time.

Exit codes: 0 ok, 1 run failed, 2 usage or bad input, 3 a `--require` gate failed, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from superinfer.errors import SuperInferError
from traces.cli import app as traces_app

app = typer.Typer(
    help="Simulate LLM serving: schedulers, KV memory and SLOs on real traces.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(traces_app, name="traces")

Trace = Annotated[
    str,
    typer.Argument(metavar="TRACE", help="Native, Mooncake or Azure trace; - for stdin."),
]
Memory = Annotated[str | None, typer.Option(help="Memory policy.", show_default="lru")]
Model = Annotated[
    str | None,
    typer.Option(help="Preset, or a config.json.", show_default="llama-3.1-8b"),
]
Device = Annotated[str | None, typer.Option(help="Device preset.", show_default="a100-80g")]
Tp = Annotated[int | None, typer.Option(help="Tensor-parallel GPUs.", show_default="1")]
Seed = Annotated[int | None, typer.Option(help="Seed of the run.", show_default="0")]
Out = Annotated[
    Path | None,
    typer.Option(help="Result folder.", show_default="runs/<trace>-<scheduler>-<time>"),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="TOML configuration.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="One setting, e.g. scheduler.max_num_seqs=128."),
]
Classes = Annotated[
    Path | None,
    typer.Option("--classes", metavar="FILE", help="TOML file of service classes."),
]
Require = Annotated[
    list[str] | None,
    typer.Option("--require", metavar="EXPR", help="Gate, e.g. 'slo_attainment>=0.95'."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON alone.")]
NoPlots = Annotated[bool, typer.Option("--no-plots", help="Write no pictures.")]
SkipBad = Annotated[
    bool | None, typer.Option("--skip-bad", help="Leave bad lines out and count them.")
]
Limit = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Use only the first N requests.")
]
Spread = Annotated[
    bool | None,
    typer.Option("--spread", help="Distribute requests that share a stamp."),
]


@app.command()
def run(
    trace: Trace,
    scheduler: Annotated[str | None, typer.Option(help="Scheduler.", show_default="vllm")] = None,
    memory: Memory = None,
    model: Model = None,
    device: Device = None,
    tp: Tp = None,
    seed: Seed = None,
    out: Out = None,
    config: ConfigFile = None,
    settings: Settings = None,
    classes: Classes = None,
    require: Require = None,
    as_json: AsJson = False,
    no_plots: NoPlots = False,
    skip_bad: SkipBad = None,
    limit: Limit = None,
    spread: Spread = None,
) -> None:
    """Simulate one scheduler on a trace and write a result folder."""
    from sim.commands import RunOptions, run_command
    from superinfer.lab.config import load_config

    chosen = load_config(
        config,
        settings or (),
        trace=trace,
        scheduler=scheduler,
        memory=memory,
        model=model,
        device=device,
        tp=tp,
        seed=seed,
        skip_bad=skip_bad or None,
        limit=limit,
        spread=spread or None,
    )
    options = RunOptions(out, classes, tuple(require or ()), as_json, not no_plots)
    raise typer.Exit(run_command(chosen, options))


@app.command()
def compare(
    trace: Trace,
    schedulers: Annotated[
        str,
        typer.Option(help="Schedulers, comma separated; the first is the reference."),
    ] = "vllm,fcfs,priority",
    arm: Annotated[
        list[Path] | None,
        typer.Option("--arm", metavar="FILE", help="Another configuration to compare."),
    ] = None,
    memory: Memory = None,
    model: Model = None,
    device: Device = None,
    tp: Tp = None,
    seed: Seed = None,
    out: Out = None,
    config: ConfigFile = None,
    settings: Settings = None,
    classes: Classes = None,
    as_json: AsJson = False,
    no_plots: NoPlots = False,
    skip_bad: SkipBad = None,
    limit: Limit = None,
    spread: Spread = None,
) -> None:
    """Simulate several schedulers on the same trace and show the differences."""
    from sim.commands import RunOptions, compare_command
    from superinfer.lab.config import load_config

    overrides = {
        "trace": trace,
        "memory": memory,
        "model": model,
        "device": device,
        "tp": tp,
        "seed": seed,
        "skip_bad": skip_bad or None,
        "limit": limit,
        "spread": spread or None,
    }
    arms = {
        name.strip(): load_config(config, settings or (), scheduler=name.strip(), **overrides)
        for name in schedulers.split(",")
        if name.strip()
    }
    arms |= {path.stem: load_config(path, settings or (), **overrides) for path in arm or ()}
    options = RunOptions(out, classes, (), as_json, not no_plots)
    raise typer.Exit(compare_command(arms, options))


def main() -> None:
    """Entry point: one line for a user's mistake, and the exit codes above."""
    try:
        app()
    except SuperInferError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
