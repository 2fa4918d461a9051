"""Axes of a figure of their own, the legend on them, and the file that a figure becomes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from superinfer.errors import ConfigError
from superinfer.lab.pictures.fonts import use_fallbacks
from superinfer.outputs import replacing
from superinfer.settings import shown_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase


def titled(axes: Axes, title: str) -> Axes:
    """The same axes under a title."""
    axes.set_title(title, fontsize="medium")
    return axes


def given_or_new(axes: Axes | None, width: float = 7.0, height: float = 4.4) -> Axes:
    """`axes`, or those of a new figure of so many inches that no display keeps; ConfigError for
    what is no axes, such as all those of a figure at once.
    """
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    if isinstance(axes, Axes):
        return axes
    if axes is not None:
        raise ConfigError(f"axes: expected matplotlib's Axes, got {shown_value(axes)}")
    return Figure(figsize=(width, height), layout="constrained").subplots()


def write_png(figure: Figure, path: Path, dpi: int = 120, *, software: bool = True) -> Path:
    """Write a figure, whole or not at all; without `software` the file does not name matplotlib's
    version, and what shows the same has the same bytes.
    """
    metadata = None if software else {"Software": None}
    with replacing(path) as staged:
        save(figure, staged, "png", dpi, metadata)
    return path


def save(figure: Figure, path: Path, kind: str, dpi: int, metadata: dict[str, None] | None) -> None:
    """Write a figure to a file of a kind that matplotlib knows. Letters that its font lacks come
    from one that has them where any is installed, and are boxes otherwise, without a warning.
    """
    if _lacks_letters(figure, path, kind, dpi, metadata) and use_fallbacks(figure):
        _lacks_letters(figure, path, kind, dpi, metadata)


def legend_below(figure: FigureBase, axes: Axes, columns: int = 4) -> None:
    """The legend of `axes` under the whole figure, if it has something to say."""
    lines, names = axes.get_legend_handles_labels()
    if lines:
        figure.legend(lines, names, loc="outside lower center", ncols=columns, frameon=False)


def with_legend_below(axes: Axes, wanted: bool) -> Axes:
    """The same axes with a legend under them, if it is wanted: for pictures that fill them."""
    if wanted and axes.get_legend_handles_labels()[0]:
        below = (0.5, -0.1)
        axes.legend(loc="upper center", bbox_to_anchor=below, ncols=4, frameon=False)
    return axes


def with_legend(axes: Axes, wanted: bool) -> Axes:
    """The same axes with a legend, if it is wanted and has something to say."""
    if wanted and axes.get_legend_handles_labels()[0]:
        axes.legend(framealpha=0.85)
    return axes


# -- inside ---------------------------------------------------------------------------------------


def _lacks_letters(
    figure: Figure, path: Path, kind: str, dpi: int, metadata: dict[str, None] | None
) -> bool:
    """Write a figure; True if its fonts lack letters of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(path, dpi=dpi, format=kind, metadata=metadata)
    others = [each for each in caught if not str(each.message).startswith("Glyph ")]
    for each in others:
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return len(others) < len(caught)
