"""What the pictures of all studies have in common: a grid, a log axis, the file that is written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from superinfer.lab.pictures import canvas
from superinfer.records.run import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure, with the same bytes whenever it shows the same."""
    canvas.write_png(figure, path, 110, software=False)


def faint_grid(axes: Axes, axis: Literal["both", "x"] = "both") -> None:
    """Thin grey lines at the ticks."""
    axes.grid(True, axis=axis, color="0.9", lw=0.6)


def footnote(figure: Figure, text: str) -> None:
    """A line in small letters below all panels."""
    figure.supxlabel(text, fontsize=8)


def log_y_axis(axes: Axes) -> None:
    """A logarithmic y axis with labels at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def scaled(values: Iterable[float | None], scale: float = 1.0) -> Floats:
    """Values times `scale` as an array, NaN for those that are unknown."""
    return scale * np.array([np.nan if value is None else value for value in values], float)
