"""Device and simulator side by side: distributions of what requests waited for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from superinfer.lab.columns import read_columns

COLUMNS = {"ttft_ms": "time to first token", "tpot_ms": "time per token", "e2el_ms": "whole answer"}
COLOURS = {"device": "#1f5f8b", "simulated": "#d9742b"}


def write_plot(device: Path, simulated: Path, out: Path, title: str) -> Path:
    """Cumulative distributions of both runs in one picture."""
    sides = {
        "device": read_columns(device / "requests.parquet"),
        "simulated": read_columns(simulated / "requests.parquet"),
    }
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, len(COLUMNS), figsize=(11, 3.4), layout="constrained")
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
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    pyplot.close(figure)
    return out


def _draw(axis: Any, values: np.ndarray, side: str) -> None:
    known = np.sort(values[np.isfinite(values)])
    if len(known):
        share = np.arange(1, len(known) + 1) / len(known)
        style = "-" if side == "device" else "--"
        axis.step(known, share, style, where="post", color=COLOURS[side], label=side)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
