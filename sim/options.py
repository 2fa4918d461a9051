"""The options that the commands of `superinfer-sim` share, beside those of `lab.options`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

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
Out = Annotated[
    Path | None,
    typer.Option(
        help="Result folder; if it exists, -2 is added.",
        show_default="runs/<trace>-<scheduler>-<time>",
    ),
]
Require = Annotated[
    list[str] | None,
    typer.Option("--require", metavar="EXPR", help="Gate, e.g. 'slo_attainment>=0.95'."),
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
Dial = Annotated[
    str | None,
    typer.Option(
        metavar="cost=X,speed=Y,quality=Z",
        help="How these are traded, each 0-1: precision, SLO margin, over-commit, batch depth.",
        show_default="none",
    ),
]


class Target(StrEnum):
    """Targets of a class."""

    TTFT = "ttft_ms"
    TPOT = "tpot_ms"
    E2E = "e2el_ms"
    RATE = "min_tokens_per_s"
