"""The picture of a plan: goodput and attainment over the number of GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from superinfer.lab.pictures.canvas import legend_below, write_png
from superinfer.lab.pictures.parts import GREY, label, line_look, say

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MARKERS = "os^Dv<>P"
"""Points of several candidates often lie over one another."""


@dataclass(slots=True, frozen=True)
class Curve:
    """One candidate: what was tried, and the number of GPUs that is enough."""

    name: str
    gpus: Sequence[int]
    goodput: Sequence[float]
    """Requests/s that met their targets."""
    attainment: Sequence[float]
    enough: int | None


def write_goodput_plot(curves: Sequence[Curve], wanted: float, path: Path) -> Path:
    """Write the picture as PNG; `wanted` is the attainment that is asked for."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    if not curves:
        say(left, "no candidate was run")
        right.set_axis_off()
    for number, curve in enumerate(curves):
        _line(left, number, curve, np.array(curve.goodput, float))
        _line(right, number, curve, 100 * np.array(curve.attainment, float))
    _finish(left, "goodput (requests/s in their targets)")
    _finish(right, "requests that meet their targets (%)")
    right.axhline(100 * wanted, color=GREY, ls=":", lw=1.0)
    legend_below(figure, left)
    figure.suptitle("Simulated. Filled: the fewest GPUs that are enough.", fontsize=10)
    return write_png(figure, path)


def _line(axes: Axes, number: int, curve: Curve, values: np.ndarray) -> None:
    gpus, look = np.array(curve.gpus), dict[str, Any](line_look(number))
    mark = MARKERS[number % len(MARKERS)]
    axes.plot(gpus, values, marker=mark, mfc="white", ms=6, label=label(curve.name), **look)
    here = gpus == curve.enough
    axes.plot(gpus[here], values[here], mark, ms=8, color=look["color"], zorder=4)


def _finish(axes: Axes, what: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("GPUs")
    axes.set_ylabel(what)
    axes.set_ylim(0, 1.06 * axes.dataLim.y1 if axes.has_data() else None)  # whole at the top
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(True, color="0.9", lw=0.6)
