"""Axes of a figure of their own, and the legend on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def titled(axes: Axes, title: str) -> Axes:
    """The same axes under a title."""
    axes.set_title(title, fontsize="medium")
    return axes


def given_or_new(axes: Axes | None, width: float = 7.0, height: float = 4.4) -> Axes:
    """`axes`, or those of a new figure of so many inches that no display keeps."""
    if axes is not None:
        return axes
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").subplots()


def with_legend_below(axes: Axes, wanted: bool) -> Axes:
    """The same, with the legend under the axes: for pictures that fill them."""
    if wanted and axes.get_legend_handles_labels()[0]:
        below = (0.5, -0.1)
        axes.legend(loc="upper center", bbox_to_anchor=below, ncols=4, frameon=False)
    return axes


def with_legend(axes: Axes, wanted: bool) -> Axes:
    """The same axes with a legend, if it is wanted and has something to say."""
    if wanted and axes.get_legend_handles_labels()[0]:
        axes.legend(framealpha=0.85)
    return axes
