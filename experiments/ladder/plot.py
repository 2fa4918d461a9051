"""The picture of the ladder: chat attainment and batch throughput, rung by rung."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.scenarios.measures import ATTAINMENT, BATCH, P99_TTFT
from experiments.studykit.pictures import faint_grid, footnote, scaled, write_png
from superinfer.lab.pictures.parts import BLUE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = "ladder.png"
_PANELS = (
    (ATTAINMENT, "chat attainment (%)", 100.0),
    (P99_TTFT, "chat P99 TTFT (s)", 1e-3),
    (BATCH, "batch tokens/s", 1.0),
)


def write_picture(summary: Mapping[str, Any], folder: Path) -> None:
    """Write the picture: a row per scenario."""
    from matplotlib.figure import Figure

    scenarios = summary["scenarios"]
    figure = Figure(figsize=(13, 3.6 * len(scenarios) + 0.4), layout="constrained")
    rows = figure.subplots(len(scenarios), len(_PANELS), sharey="row", squeeze=False)
    for row, (name, found) in zip(rows, scenarios.items(), strict=True):
        for axes, (key, title, scale) in zip(row, _PANELS, strict=True):
            _panel(axes, found["rungs"], key, scale)
            axes.set_xlabel(title)
            if key == P99_TTFT:
                axes.set_xscale("log")
            else:
                axes.set_xlim(0, None)
        row[0].set_title(f"{name}: {found['title']}", loc="left", fontsize=10)
    footnote(
        figure, "Simulated, Llama-3.1-70B on four A100-80G; bars are 95 % intervals over the seeds."
    )
    write_png(figure, folder / PICTURE)


def _panel(axes: Axes, rungs: Mapping[str, Any], key: str, scale: float) -> None:
    places = np.arange(len(rungs))
    means, low, high = (
        scaled((each[key][end] for each in rungs.values()), scale)
        for end in ("mean", "low", "high")
    )
    spread = np.nan_to_num(np.clip([means - low, high - means], 0, None))
    axes.errorbar(means, places, xerr=spread, color=BLUE, marker="o", ms=5, lw=1, capsize=2)
    axes.set_yticks(places, list(rungs))
    axes.set_ylim(len(rungs) - 0.5, -0.5)
    faint_grid(axes)
