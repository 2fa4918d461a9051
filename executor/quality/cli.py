"""`superinfer-exec quality`: what fewer bits for keys and values cost, on a real model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from executor.options import JsonAlone, OwnDevice
from executor.shipped import HELDOUT, TINY
from superinfer.errors import ConfigError
from superinfer.outputs import check_writable
from traces.printing import print_out, print_table

if TYPE_CHECKING:
    from rich.table import Table

Report = dict[str, Any]

LEGEND = """\
Against 16 bits everywhere. Blocks have 16 bits while they are the newest. "K per token" is naive
and for comparison. Outliers: two pairs of channels of each KV head made 12 times as large in K."""
RECALL_LEGEND = """\
Bits per byte of a passage where it stands first and again; how many bytes of a value are predicted
right after its key, and without the key and the value ever having stood in the text."""


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("quality")(quality)


def quality(
    model: Annotated[
        Path, typer.Option(help="Folder of a Llama.", show_default="the shipped one")
    ] = TINY,
    text: Annotated[
        Path,
        typer.Option(help="Text that it was not trained on.", show_default="the shipped one's"),
    ] = HELDOUT,
    device: OwnDevice = None,
    windows: Annotated[int, typer.Option(min=2, help="Windows of text.")] = 16,
    length: Annotated[int, typer.Option(min=64, help="Tokens of a window.")] = 512,
    distance: Annotated[int, typer.Option(min=128, help="Tokens that recall looks back.")] = 1024,
    decode: Annotated[bool, typer.Option("--decode", help="Token by token, as decodes.")] = False,
    as_json: JsonAlone = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", "--out", metavar="FILE", help="Profile that takes the figures."
        ),
    ] = None,
) -> None:
    """Measure what 8 and 4 bits for keys and values cost in quality."""
    from executor.device import default_device, find_device
    from executor.quality.figures import check_profile, write_figures
    from executor.quality.measure import Settings, measure

    where = str(find_device(device or default_device(), "--device").torch)
    settings = Settings(_folder(model), text, where, windows, length, distance, decode)
    if out is not None:
        check_writable(out, file=True)
        check_profile(out, settings.model)
    report = measure(settings)
    if out is not None:
        write_figures(report, out)
    if as_json:
        print_out(json.dumps(report, indent=1))
        return
    for legend, table in ((LEGEND, _differences(report)), (RECALL_LEGEND, _recalls(report))):
        print_table(table)
        print_out(legend)


def _folder(model: Path) -> Path:
    """Where the weights are of a model in which outlier channels can be made."""
    from executor.models.config import read_config

    config, folder = read_config(model)
    if folder is None:
        raise ConfigError(f"--model {model}: expected a folder with weights, found a preset")
    if config.family not in {"llama", "mixtral"} or config.qk_norm:
        raise ConfigError(f"--model {model}: expected a Llama without norms of its heads")
    return folder


def _differences(report: Report) -> Table:
    table = _table("keys and values", "perplexity", "+/-", "KL", "same top 1")
    for kind in ("plain", "outliers"):
        bits = report[kind]["bits_per_token"]
        table.add_row(f"{kind}: {bits:.3f} bits per token", "", "", "", "")
        for name, found in report[kind]["forms"].items():
            table.add_row(
                f"  {name}",
                f"{found['perplexity_change']:+.3%}",
                f"{found['perplexity_error']:.3%}",
                f"{found['kl']:.1e}",
                f"{found['same_top1']:.2%}",
            )
    return table


def _recalls(report: Report) -> Table:
    far = f"{report['distance_tokens']} tokens back"
    table = _table(far, "passage, first", "again", "values right", "guessed")
    for kind in ("plain", "outliers"):
        for name, found in report[kind]["recall"].items():
            table.add_row(
                f"{kind}: {name}",
                f"{found['passage_first_bits']:.2f}",
                f"{found['passage_again_bits']:.2f}",
                f"{found['pair_bytes_right']:.0%}",
                f"{found['pair_bytes_guessed']:.0%}",
            )
    return table


def _table(first: str, *others: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table
