"""Pictures of a sweep: attainment, goodput and p99 latency over each axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from superinfer.lab.axes import Axis, Place, place_text
from superinfer.lab.canvas import legend_below, write_png
from superinfer.lab.numbers import digits
from superinfer.lab.plot_parts import GREY, label, line_look, say
from superinfer.lab.sweep_points import ATTAINMENT, GOODPUT, Peak, Point, Points, rate_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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

Drawn = Mapping[Place, list[tuple[int, str, list[Point]]]]
"""By place of the other axes: number and name of each arm, and its points along the axis."""


def write_sweep_plots(
    axes: Sequence[Axis], points: Points, found: Sequence[Peak], wanted: float, folder: Path
) -> list[Path]:
    """A picture `sweep-<axis>.png` for every axis with two or more values; returns the paths."""
    paths = []
    for at, axis in enumerate(axes):
        drawn = grouped(axes, at, points)
        if drawn:
            path = folder / f"sweep-{axis.name}.png"
            _write(axes, at, points, drawn, found, wanted, path)
            paths.append(path)
    return paths


def _write(
    axes: Sequence[Axis],
    at: int,
    points: Points,
    drawn: Drawn,
    found: Sequence[Peak],
    wanted: float,
    path: Path,
) -> None:
    from matplotlib.figure import Figure

    others = [axis for number, axis in enumerate(axes) if number != at]
    rows = _spread(list(drawn))
    figure = Figure(figsize=(13.5, 1.0 + 2.9 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(PANELS), sharex=True, sharey="col", squeeze=False)
    marked = {(peak.arm, peak.others): peak.point for peak in found if at == rate_axis(axes)}
    for row, place in zip(panels, rows, strict=True):
        for panel, metric in zip(row, PANELS, strict=True):
            _panel(panel, axes[at], at, metric, drawn[place])
            for number, arm, _ in drawn[place]:
                _mark(panel, axes[at], at, metric, number, marked.get((arm, place)))
        row[0].axhline(100 * wanted, color=GREY, ls=":", lw=1.0)
        if others:
            row[0].set_title(label(place_text(others, place), 60), loc="left", fontsize="medium")
    for panel, metric in zip(panels[-1], PANELS, strict=True):
        panel.set_xlabel(label(axes[at].label, 60))
        _scale_y(panel, metric, points)
    drawn = [panel for panel in panels[0] if panel.get_legend_handles_labels()[0]]
    if drawn:  # without targets the first panel is empty
        legend_below(figure, drawn[0], 6)
    figure.suptitle(_title(points, bool(marked), len(rows), len(drawn)), fontsize=10)
    write_png(figure, path, software=False)


def grouped(axes: Sequence[Axis], at: int, points: Points) -> Drawn:
    """The rows of the picture over axis `at`: places of the other axes, in the grid's order."""
    arms = {arm: number for number, arm in enumerate(dict.fromkeys(p.arm for p in points))}
    ordered = sorted(points, key=lambda point: _x(axes[at], point.place[at]))
    others = [*axes[:at], *axes[at + 1 :]]
    # A search for the peak tries values for one arm at one place: no rows of their own for these.
    rows = dict.fromkeys(
        row
        for row in (_without(point, at) for point in points)
        if all(value in axis.values for axis, value in zip(others, row, strict=True))
    )
    return {
        row: [
            (number, arm, line)
            for arm, number in arms.items()
            if (line := [p for p in ordered if p.arm == arm and _without(p, at) == row])
        ]
        for row in rows
        if _values(ordered, row, at) > 1
    }


# -- inside ---------------------------------------------------------------------------------------


def _title(points: Points, marked: bool, rows: int, all_rows: int) -> str:
    parts = ["Simulated."]
    if marked:
        parts.append("Filled: the largest rate that keeps the dotted share.")
    seeds = max(len(point.runs) for point in points)
    if seeds > 1:
        parts.append(f"Mean of {seeds} seeds; band: from the smallest to the largest.")
    if rows < all_rows:
        parts.append(f"{rows} of {all_rows} rows are shown.")
    return " ".join(parts)


def _values(points: Points, row: Place, at: int) -> int:
    return len({point.place[at] for point in points if _without(point, at) == row})


def _without(point: Point, at: int) -> Place:
    return (*point.place[:at], *point.place[at + 1 :])


def _spread(rows: list[Place]) -> list[Place]:
    if len(rows) <= MOST_ROWS:
        return rows
    return [rows[round(i * (len(rows) - 1) / (MOST_ROWS - 1))] for i in range(MOST_ROWS)]


def _x(axis: Axis, value: Any) -> float:
    """Where a value lies: numbers by themselves, words in their order."""
    return float(value) if axis.numeric else float(axis.values.index(value))


def _y(metric: str, value: float | None) -> float:
    return math.nan if value is None else value * _FACTORS.get(metric, 1.0)


def _panel(
    panel: Axes, axis: Axis, at: int, metric: str, arms: Sequence[tuple[int, str, list[Point]]]
) -> None:
    panel.set_ylabel(PANELS[metric])
    panel.grid(True, color="0.9", lw=0.6)
    if all(point.value(metric) is None for _, _, line in arms for point in line):
        say(panel, "no targets" if metric == ATTAINMENT else "no values")
        return
    for number, arm, line in arms:
        look: dict[str, Any] = line_look(number)
        x = [_x(axis, point.place[at]) for point in line]
        y = [_y(metric, point.value(metric)) for point in line]
        panel.plot(x, y, marker="o", mfc="white", ms=4.5, label=label(arm), **look)
        ranges = [point.range_of(metric) for point in line]
        if any(len(point.runs) > 1 for point in line):
            low, high = (
                [_y(metric, None if r is None else r[side]) for r in ranges] for side in (0, 1)
            )
            panel.fill_between(x, low, high, color=look["color"], alpha=0.15, lw=0)
    _scale_x(panel, axis)


def _mark(panel: Axes, axis: Axis, at: int, metric: str, number: int, point: Point | None) -> None:
    if point is not None and point.value(metric) is not None:
        x, y = _x(axis, point.place[at]), _y(metric, point.value(metric))
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
