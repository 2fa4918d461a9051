"""The picture of the study: four measures against the rate, a row for each model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.rotasched.measures import GAP, THROUGHPUT, TPOT, TTFT
from experiments.rotasched.settings import ARMS, DEFAULT, REPO, ROTATING, TUNED, VLT
from experiments.studykit.measures import Measure
from experiments.studykit.pictures import faint_grid, footnote, scaled, write_png
from superinfer.lab.pictures.parts import BLUE, GREY, ORANGE, RED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = "rotasched.png"
_PANELS = (TTFT, TPOT, GAP, THROUGHPUT)
_LOOKS: Mapping[str, dict[str, Any]] = {
    DEFAULT: {"color": GREY, "marker": "s", "ls": ":"},
    TUNED: {"color": GREY, "marker": "s", "ls": "--"},
    REPO: {"color": BLUE, "marker": "D", "ls": "-."},
    VLT: {"color": ORANGE, "marker": "^", "ls": "-."},
    ROTATING: {"color": RED, "marker": "o", "ls": "-"},
}


def write_picture(summary: Mapping[str, Any], folder: Path) -> None:
    """Write the picture."""
    from matplotlib.figure import Figure

    sweeps = summary["sweeps"]
    figure = Figure(figsize=(14, 2.7 * len(sweeps) + 0.9), layout="constrained")
    grid = figure.subplots(len(sweeps), len(_PANELS), squeeze=False)
    for row, (model, sweep) in zip(grid, sweeps.items(), strict=True):
        for axes, measure in zip(row, _PANELS, strict=True):
            _panel(axes, sweep, measure)
        row[0].set_title(model, loc="left", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("requests/s")
    lines = grid[0][0].get_lines()[: len(ARMS)]
    labels = [str(line.get_label()) for line in lines]
    figure.legend(lines, labels, loc="outside upper center", ncols=3, frameon=False)
    footnote(
        figure, "Simulated, one GH200 by its nominal figures. Means over the seeds, 95 % intervals."
    )
    write_png(figure, folder / PICTURE)


def _panel(axes: Axes, sweep: Mapping[str, Any], measure: Measure) -> None:
    rates = np.array(sweep["rates_per_s"], float)
    for arm, points in sweep["arms"].items():
        found = [point[measure.key] for point in points]
        mean, low, high = (
            scaled((each[end] for each in found), measure.scale) for end in ("mean", "low", "high")
        )
        axes.plot(rates, mean, label=ARMS[arm].label, ms=4, lw=1.5, **_LOOKS[arm])
        axes.fill_between(rates, low, high, color=_LOOKS[arm]["color"], alpha=0.15, lw=0)
    axes.set_ylabel(measure.title)
    faint_grid(axes)
    if measure is GAP:
        axes.set_yscale("log")
    else:
        axes.set_ylim(*((-3, 103) if measure.scale == 100 else (0, None)))
