"""The picture of a tuning: what was tried, and what no other trial beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from superinfer.lab.metric_names import COMPARE_ROWS
from superinfer.lab.pictures.canvas import legend_below, write_png
from superinfer.lab.pictures.parts import BLUE, GREY, ORANGE, RED, label
from superinfer.lab.studies.tuning import Task, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = "pareto.png"
MOST_PANELS = 6
"""Pairs of objectives that are drawn."""
_DECADE = 10.0
"""Values that span more have a logarithmic axis."""
_OUTER = 0.1
"""Share of the trials at either end of an axis that may lie outside of the picture."""
_NEAR = 0.05
"""Share of a panel's sides within which numbers would lie over each other."""
_MOST_NAMED = 12
"""Of the front, so many carry their number."""


@dataclass(slots=True, frozen=True)
class Tried:
    """What a picture of a tuning shows."""

    task: Task
    trials: Sequence[Trial]
    front: Sequence[Trial]
    """Of these, what no other one beats."""
    base: Sequence[float]
    """Objectives of the configuration as it is."""

    def shown(self, values: Sequence[float]) -> list[float]:
        """Values in the units of the axes: shares as per cent."""
        return [
            100 * value if _label(key).endswith("(%)") else value
            for key, value in zip(self.task.objectives, values, strict=True)
        ]

    def points(self, trials: Sequence[Trial], pair: tuple[int, int]) -> np.ndarray:
        """Two objectives of those trials that did not fail."""
        known = [self.shown(trial.values) for trial in trials if trial.values is not None]
        return np.array([[each[at] for at in pair] for each in known], float).reshape(-1, 2)

    def name(self, at: int) -> str:
        """An objective in words, and which way it is better."""
        way = "more is better" if self.task.directions()[at] == "maximize" else "less is better"
        return f"{label(_label(self.task.objectives[at]), 48)}\n({way})"


def write_pareto_plot(tried: Tried, folder: Path) -> Path:
    """Write `pareto.png`: a panel per pair of objectives, or the course of a single one."""
    from matplotlib.figure import Figure

    pairs = list(combinations(range(len(tried.task.objectives)), 2))[:MOST_PANELS]
    columns = min(3, max(1, len(pairs)))
    rows = -(-max(1, len(pairs)) // columns)
    size = (1.0 + 4.4 * columns, 1.0 + 3.9 * rows)
    figure = Figure(figsize=size if pairs else (8.0, 4.6), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    if pairs:
        for panel, pair in zip(panels, pairs, strict=False):
            _pair(panel, tried, pair)
    else:
        _course(panels[0], tried)
    for panel in panels[max(1, len(pairs)) :]:
        panel.set_axis_off()
    legend_below(figure, panels[0])
    figure.suptitle(_title(tried.trials), fontsize=10)
    return write_png(figure, folder / PICTURE, software=False)


# -- inside ---------------------------------------------------------------------------------------


def _title(trials: Sequence[Trial]) -> str:
    failed = sum(trial.values is None for trial in trials)
    parts = ["Simulated.", f"{len(trials) - failed} trials." if trials else "No trials."]
    parts += [f"{failed} failed."] if failed else []
    parts += ["The worst may lie outside."] if len(trials) - failed > 1 / _OUTER else []
    return " ".join(parts)


def _pair(panel: Axes, tried: Tried, pair: tuple[int, int]) -> None:
    """Every trial by two objectives; the front by its number."""
    every, best = (tried.points(trials, pair) for trials in (tried.trials, tried.front))
    here = tried.shown(tried.base)
    panel.plot(*every.T, "o", ms=4, color=GREY, alpha=0.45, label="tried", mew=0)
    panel.plot(*best.T, "o", ms=7, color=BLUE, label="front: no other trial beats it")
    start = [here[pair[0]]], [here[pair[1]]]
    panel.plot(*start, "*", ms=13, color=ORANGE, mec="black", mew=0.6, label="as it is", zorder=5)
    panel.set_xlabel(tried.name(pair[0]))
    panel.set_ylabel(tried.name(pair[1]))
    panel.grid(True, color="0.9", lw=0.6)
    panel.set_axisbelow(True)
    always = np.vstack([best, np.array([[here[at] for at in pair]])])
    for side, which in enumerate("xy"):
        low, high = _limits(every[:, side], always[:, side])
        _scale(panel, which, low, high)
    numbers = [trial.number for trial in tried.front]
    write_numbers(panel, numbers[:_MOST_NAMED], best[:_MOST_NAMED])


def write_numbers(panel: Axes, numbers: Sequence[int], points: np.ndarray) -> None:
    """The number of each point, those of points that nearly coincide side by side."""
    places = panel.transAxes.inverted().transform(panel.transData.transform(points))
    written: list[tuple[np.ndarray, np.ndarray, list[int]]] = []
    for number, point, place in zip(numbers, points, places, strict=True):
        near = [names for _, other, names in written if np.abs(other - place).max() < _NEAR]
        if near:
            near[0].append(number)
        else:
            written.append((point, place, [number]))
    for point, place, names in written:
        left = place[0] > 1 - 2 * _NEAR  # there is no room on the right
        panel.annotate(
            ", ".join(map(str, sorted(names))), (point[0], point[1]), xytext=(-4 if left else 4, 4),
            ha="right" if left else "left", textcoords="offset points", fontsize="x-small",
        )  # fmt: skip


def _limits(every: np.ndarray, always: np.ndarray) -> tuple[float, float]:
    """What is shown: all but the outer tenths of the trials, and always the front."""
    inner = np.quantile(every, (_OUTER, 1 - _OUTER)) if every.size else always
    values = np.append(inner, always)
    return float(values.min()), float(values.max())


def _label(objective: str) -> str:
    return COMPARE_ROWS.get(objective, objective)


def _course(panel: Axes, tried: Tried) -> None:
    """One objective over the trials, and the best so far."""
    known = [trial for trial in tried.trials if trial.values is not None]
    numbers = np.array([trial.number for trial in known])
    values = np.array([tried.shown(trial.values)[0] for trial in known if trial.values], float)
    here = tried.shown(tried.base)[0]
    more = tried.task.directions()[0] == "maximize"
    best = np.maximum.accumulate(values) if more else np.minimum.accumulate(values)
    panel.plot(numbers, values, "o", ms=4, color=GREY, alpha=0.6, label="tried", mew=0)
    panel.step(numbers, best, where="post", color=BLUE, lw=1.6, label="best so far")
    panel.axhline(here, color=RED, ls="--", lw=1.1, label="as it is")
    panel.set_xlabel("trial")
    panel.set_ylabel(tried.name(0))
    panel.grid(True, color="0.9", lw=0.6)
    low, high = _limits(values, np.append(best, here))
    _scale(panel, "y", low, high)


def _scale(panel: Axes, which: str, low: float, high: float) -> None:
    """Plain numbers with some room around them; logarithmic where they span a decade."""
    from matplotlib.ticker import FuncFormatter

    axis: Any = panel.xaxis if which == "x" else panel.yaxis
    set_limits = panel.set_xlim if which == "x" else panel.set_ylim
    if low > 0 and high / low > _DECADE:
        (panel.set_xscale if which == "x" else panel.set_yscale)("log")
        set_limits(low / 1.2, high * 1.2)
    else:
        room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
        set_limits(low - room, high + room)
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.6g}"))
