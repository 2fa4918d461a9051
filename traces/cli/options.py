"""The options that the commands of `superinfer-sim traces` share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from superinfer.slo_classes import MAX_LENGTH_TOKENS

TracePath = Annotated[
    str, typer.Argument(metavar="PATH", help="Native, Mooncake or Azure trace; - for stdin.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad lines out and count them.")]
Classes = Annotated[
    Path | None, typer.Option("--classes", metavar="FILE", help="TOML file of service classes.")
]
Output = Annotated[
    str, typer.Option("-o", "--output", metavar="OUT", help="Gzip if it ends in .gz; - stdout.")
]
Spread = Annotated[bool, typer.Option("--spread", help="Distribute requests that share a stamp.")]
Limit = Annotated[
    int | None, typer.Option("--limit", metavar="N", min=1, help="Keep the first N requests.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone.")]

HashBlockSize = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        max=MAX_LENGTH_TOKENS,
        help="Tokens per hash id, where records do not say it.",
    ),
]


class TimeUnit(StrEnum):
    """What `timestamp` counts in."""

    MS = "ms"
    S = "s"
