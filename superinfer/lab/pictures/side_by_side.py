"""Device and simulator side by side: distributions of what requests waited for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from superinfer.lab.columns import read_columns
from superinfer.lab.pictures.canvas import write_png
from superinfer.records.run import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = {"ttft_ms": "time to first token", "tpot_ms": "time per token", "e2el_ms": "whole answer"}
COLOURS = {"device": "#1f5f8b", "simulated": "#d9742b"}


def write_plot(device: Path, simulated: Path, out: Path, title: str) -> Path:
    """Cumulative distributions of both runs in one picture."""
    from matplotlib.figure import Figure

    sides = {
        "device": read_columns(device / "requests.parquet"),
        "simulated": read_columns(simulated / "requests.parquet"),
    }
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, len(COLUMNS))
    for axis, (column, words) in zip(axes, COLUMNS.items(), strict=True):
        for side, columns in sides.items():
            _draw(axis, np.asarray(columns[column], dtype=float), side)
        axis.set_xlabel(f"{words}, ms")
        axis.set_ylim(0, 1)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of requests")
    if axes[0].lines:
        axes[0].legend(loc="lower right", frameon=False)
    figure.suptitle(title)
    return write_png(figure, out)


def _draw(axis: Axes, values: Floats, side: str) -> None:
    known = np.sort(values[np.isfinite(values)])
    if len(known):
        share = np.arange(1, len(known) + 1) / len(known)
        style = "-" if side == "device" else "--"
        axis.step(known, share, style, where="post", color=COLOURS[side], label=side)
