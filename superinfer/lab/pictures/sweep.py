"""Pictures of a sweep: attainment, goodput and p99 latency over each axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from superinfer.lab.numbers import digits
from superinfer.lab.pictures.canvas import legend_below, write_png
from superinfer.lab.pictures.parts import GREY, label, line_look, say
from superinfer.lab.studies.axes import Axis, Place, place_text
from superinfer.lab.studies.sweep_points import ATTAINMENT, GOODPUT, Peak, Point, Points, rate_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = {
    ATTAINMENT: "requests that meet\ntheir targets (%)",
    GOODPUT: "goodput (requests/s\nin their targets)",
    "p99_ttft_ms": "TTFT p99 (s)",
    "p99_tpot_ms": "TPOT p99 (ms)",
}
_FACTORS = {ATTAINMENT: 100.0, "p99_ttft_ms": 1e-3}
"""From the summary's unit to that of the panel."""
MOST_ROWS = 6
"""Places of the other axes that are drawn, spread over all."""
_DECADE = 10.0
"""Values that span more have a logarithmic axis."""
_TICKS = (1.0, 2.0, 5.0)
"""In each decade of a logarithmic axis."""
_EVEN = 0.35
"""Gaps of an axis that differ by more than this share are more even on a logarithmic one."""

Line = tuple[int, str, list[Point]]
"""Number and name of an arm, and its points along the axis."""
Rows = Mapping[Place, list[Line]]
"""By place of the other axes."""


@dataclass(slots=True, frozen=True)
class Along:
    """The axes of a sweep, and which of them a picture runs along."""

    axes: Sequence[Axis]
    at: int

    @property
    def axis(self) -> Axis:
        """The one that the picture runs along."""
        return self.axes[self.at]

    @property
    def others(self) -> list[Axis]:
        """All other axes."""
        return [axis for number, axis in enumerate(self.axes) if number != self.at]

    def x(self, point: Point) -> float:
        """Where a point lies: numbers by themselves, words in their order."""
        value = point.place[self.at]
        return float(value) if self.axis.numeric else float(self.axis.values.index(value))

    def row(self, point: Point) -> Place:
        """The point's place on the other axes."""
        return (*point.place[: self.at], *point.place[self.at + 1 :])

    def rows(self, points: Points) -> Rows:
        """The rows of the picture, in the grid's order: those with more than one place in them."""
        arms = {arm: number for number, arm in enumerate(dict.fromkeys(p.arm for p in points))}
        ordered = sorted(points, key=self.x)
        # A search for the peak tries values for one arm at one place: no rows of their own for it.
        rows = dict.fromkeys(
            row
            for row in map(self.row, points)
            if all(value in axis.values for axis, value in zip(self.others, row, strict=True))
        )
        return {
            row: [
                (number, arm, line)
                for arm, number in arms.items()
                if (line := [p for p in ordered if p.arm == arm and self.row(p) == row])
            ]
            for row in rows
            if len({p.place[self.at] for p in points if self.row(p) == row}) > 1
        }


def write_sweep_plots(
    axes: Sequence[Axis], points: Points, found: Sequence[Peak], wanted: float, folder: Path
) -> list[Path]:
    """A picture `sweep-<axis>.png` for every axis with two or more values; returns the paths."""
    paths = []
    for at, axis in enumerate(axes):
        along = Along(axes, at)
        if along.rows(points):
            peaks = found if at == rate_axis(axes) else ()
            figure = _figure(along, points, peaks, wanted)
            paths.append(write_png(figure, folder / f"sweep-{axis.name}.png", software=False))
    return paths


# -- inside ---------------------------------------------------------------------------------------


def _figure(along: Along, points: Points, peaks: Sequence[Peak], wanted: float) -> Figure:
    """A row of panels for each place of the other axes."""
    from matplotlib.figure import Figure

    all_rows = along.rows(points)
    rows = _spread(list(all_rows))
    figure = Figure(figsize=(13.5, 1.0 + 2.9 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(PANELS), sharex=True, sharey="col", squeeze=False)
    marked = {(peak.arm, peak.others): peak.point for peak in peaks}
    for row, place in zip(panels, rows, strict=True):
        for panel, metric in zip(row, PANELS, strict=True):
            _panel(panel, along, metric, all_rows[place])
            for number, arm, _ in all_rows[place]:
                _mark(panel, along, metric, number, marked.get((arm, place)))
        row[0].axhline(100 * wanted, color=GREY, ls=":", lw=1.0)
        if along.others:
            words = place_text(along.others, place)
            row[0].set_title(label(words, 60), loc="left", fontsize="medium")
    for panel, metric in zip(panels[-1], PANELS, strict=True):
        panel.set_xlabel(label(along.axis.label, 60))
        _scale_y(panel, metric, points)
    # Without targets the first panel is empty.
    has_lines = bool(panels[0][0].get_legend_handles_labels()[0])
    legend_below(figure, panels[0][0 if has_lines else 1], 6)
    figure.suptitle(_title(points, bool(marked), len(rows), len(all_rows)), fontsize=10)
    return figure


def _title(points: Points, marked: bool, rows: int, all_rows: int) -> str:
    parts = ["Simulated."]
    if marked:
        parts.append("Filled: the largest rate up to which the dotted share is kept.")
    seeds = max(len(point.runs) for point in points)
    if seeds > 1:
        parts.append(f"Mean of {seeds} seeds; band: from the smallest to the largest.")
    if rows < all_rows:
        parts.append(f"{rows} of {all_rows} rows are shown.")
    return " ".join(parts)


def _spread(rows: list[Place]) -> list[Place]:
    if len(rows) <= MOST_ROWS:
        return rows
    return [rows[round(i * (len(rows) - 1) / (MOST_ROWS - 1))] for i in range(MOST_ROWS)]


def _y(metric: str, value: float | None) -> float:
    return math.nan if value is None else value * _FACTORS.get(metric, 1.0)


def _panel(panel: Axes, along: Along, metric: str, arms: Sequence[Line]) -> None:
    panel.set_ylabel(PANELS[metric])
    panel.grid(True, color="0.9", lw=0.6)
    if all(point.value(metric) is None for _, _, line in arms for point in line):
        say(panel, "no targets" if metric == ATTAINMENT else "no values")
        return
    for number, arm, line in arms:
        look: dict[str, Any] = line_look(number)
        x = [along.x(point) for point in line]
        y = [_y(metric, point.value(metric)) for point in line]
        panel.plot(x, y, marker="o", mfc="white", ms=4.5, label=label(arm), **look)
        ranges = [point.range_of(metric) for point in line]
        if any(len(point.runs) > 1 for point in line):
            low, high = (
                [_y(metric, None if r is None else r[side]) for r in ranges] for side in (0, 1)
            )
            panel.fill_between(x, low, high, color=look["color"], alpha=0.15, lw=0)
    _scale_x(panel, along.axis)


def _mark(panel: Axes, along: Along, metric: str, number: int, point: Point | None) -> None:
    if point is not None and point.value(metric) is not None:
        x, y = along.x(point), _y(metric, point.value(metric))
        colour: Any = line_look(number)["color"]
        panel.plot([x], [y], "o", ms=7, color=colour, zorder=4)


def _scale_x(panel: Axes, axis: Axis) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    if not axis.numeric:
        panel.set_xticks(range(len(axis.values)), [label(str(v), 16) for v in axis.values])
        return
    values = np.array(sorted(float(value) for value in axis.values))
    if values[0] > 0 and values.size > 2 and _is_geometric(values):
        panel.set_xscale("log")
        shown = values if values.size <= 8 else values[:: math.ceil(values.size / 8)]
        panel.xaxis.set_major_locator(FixedLocator(list(shown)))
        panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: digits(x, 6)))


def _is_geometric(values: np.ndarray) -> bool:
    """Whether values lie more evenly by their ratios than by their differences."""
    gaps, ratios = np.diff(values), np.diff(np.log(values))
    return bool(np.ptp(gaps) / gaps.mean() > max(_EVEN, np.ptp(ratios) / ratios.mean()))


def _scale_y(panel: Axes, metric: str, points: Points) -> None:
    """From zero up; latencies that span decades on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    values = [_y(metric, point.value(metric)) for point in points]
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return
    low, high = min(known), max(known)
    tops = [_y(metric, r[1]) for point in points if (r := point.range_of(metric))]
    highest = max(tops, default=high)
    if metric == ATTAINMENT:
        panel.set_ylim(0, 104)
    elif metric != GOODPUT and low > 0 and high / low > _DECADE:
        panel.set_yscale("log")
        panel.set_ylim(0.7 * low, 1.3 * highest)  # whatever the lowest of some seed is
        panel.yaxis.set_major_locator(LogLocator(subs=_TICKS if high / low < 1000 else (1.0,)))
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda y, _: digits(y)))
    else:
        panel.set_ylim(0, 1.08 * highest or 1.0)
