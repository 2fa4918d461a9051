"""The options that the commands of `superinfer-sim` share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Trace = Annotated[
    str | None,
    typer.Argument(
        metavar="TRACE",
        show_default="run.trace of --config",
        help="Native, Mooncake or Azure trace; - for stdin.",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="Scheduler, by name or as package.module:Class.", show_default="rotating"),
]
Memory = Annotated[str | None, typer.Option(help="Memory policy.", show_default="lru")]
Model = Annotated[
    str | None,
    typer.Option(help="Preset, or a config.json.", show_default="llama-3.1-8b"),
]
Device = Annotated[str | None, typer.Option(help="Device preset.", show_default="a100-80g")]
Replicas = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Engines behind a router.", show_default="1"),
]
Router = Annotated[
    str | None,
    typer.Option(help="Router, by name or as package.module:Class.", show_default="least_loaded"),
]
Tp = Annotated[int | None, typer.Option(help="Tensor-parallel GPUs.", show_default="1")]
Seed = Annotated[
    int | None,
    typer.Option(
        help="Recorded in the summary; replaying a trace draws nothing at random.",
        show_default="0",
    ),
]
PrefixCaching = Annotated[
    bool | None,
    typer.Option(
        "--prefix-caching/--no-prefix-caching",
        help="Reuse the KV cache of equal prompt beginnings.",
        show_default="no-prefix-caching",
    ),
]
Lag = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=1,
        help="1: plan the next step while the current one runs.",
        show_default="0",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Result folder; if it exists, -2 is added.",
        show_default="runs/<trace>-<scheduler>-<time>",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="TOML configuration, or scenario-m or scenario-c."
    ),
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
Concurrency = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Closed loop: N requests under way; the next is sent when one ends.",
        show_default="open loop",
    ),
]
Duration = Annotated[
    float | None,
    typer.Option("--duration", metavar="SECONDS", help="Cut the run off at this time."),
]
RateScale = Annotated[
    float | None,
    typer.Option(metavar="X", help="Arrival rate as a multiple of the trace's."),
]
Dial = Annotated[
    str | None,
    typer.Option(
        metavar="cost=X,speed=Y,quality=Z",
        help="How these are traded, each 0-1: precision, SLO margin, over-commit, batch depth.",
        show_default="none",
    ),
]
WithoutSlo = Annotated[
    bool | None, typer.Option("--without-slo", help="Take every target away from the requests.")
]


class Target(StrEnum):
    """Targets of a class."""

    TTFT = "ttft_ms"
    TPOT = "tpot_ms"
    E2E = "e2el_ms"
    RATE = "min_tokens_per_s"
