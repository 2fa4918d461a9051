"""The picture of the study: chat and batch over the size of the shared cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.consolidation.settings import TTFT_MS
from experiments.studykit.pictures import faint_grid, write_png
from superinfer.lab.pictures.parts import BLUE, GREEN, GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = "consolidation.png"


def write_picture(summary: Mapping[str, Any], folder: Path) -> None:
    """Write the picture."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = sorted(summary["shared"], key=lambda each: each["gpus"])
    figure = Figure(figsize=(10.5, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    _line(left, rows, "p99_ttft_ms", BLUE)
    left.axhline(TTFT_MS, color=GREY, ls=":", label=f"to be kept: {TTFT_MS:g} ms")
    alone = summary["separate"]["chat"]["p99_ttft_ms"]["mean"]
    left.axhline(alone, color=BLUE, ls="--", lw=1.0, label="chat cluster")
    left.set_ylim(0, None)
    left.set_ylabel("chat: P99 TTFT (ms)")
    _line(right, rows, "tokens_per_s", GREEN)
    alone = summary["separate"]["batch"]["tokens_per_s"]["mean"]
    right.axhline(alone, color=GREEN, ls="--", lw=1.0, label="batch cluster")
    right.set_ylabel("batch: output tokens/s")
    right.set_ylim(0, None)
    for axes in (left, right):
        axes.set_xlabel(
            f"GPUs of the shared cluster (both separate ones: {summary['size']['gpus']})"
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        faint_grid(axes)
    left.legend(framealpha=0.85, fontsize=8)
    right.legend(framealpha=0.85, fontsize=8, loc="lower right")
    figure.suptitle("Simulated, Llama-3.1-8B on A100-80G; bars: 95 % over the seeds.", fontsize=9)
    write_png(figure, folder / PICTURE)


def _line(axes: Axes, rows: list[Mapping[str, Any]], key: str, colour: str) -> None:
    """Of the shared cluster, means over the seeds with their intervals."""
    gpus = np.array([row["gpus"] for row in rows])
    found = [row[key] for row in rows]
    means = np.array([each["mean"] for each in found])
    low, high = (
        np.array([each["mean"] if each[end] is None else each[end] for each in found])
        for end in ("low", "high")
    )
    bars = (means - low, high - means)
    axes.errorbar(gpus, means, bars, fmt="o-", color=colour, label="shared cluster")
