"""The picture of a comparison: how many times better each arm is, with intervals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from superinfer.errors import ConfigError
from superinfer.lab.metric_names import COMPARE_ROWS, LATENCIES, higher_is_better
from superinfer.lab.numbers import split_metric
from superinfer.lab.pictures.canvas import given_or_new

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SHOWN = (
    "slo_attainment",
    "request_goodput",
    "output_throughput",
    "median_ttft_ms",
    "p99_ttft_ms",
    "p99_tpot_ms",
    "p99_itl_ms",
    "p99_e2el_ms",
)
_LATENCY = re.compile(r"(mean|median|std|p\d+)_(ttft|tpot|itl|e2el)_ms")
_MANY = 12
"""Metrics of a frame that are drawn without being asked for."""
_LEAST = 1e-3
"""Where a bound is cut that cannot be shown as a factor."""


def plot_differences(
    table: pd.DataFrame,
    metrics: Sequence[str] | None = None,
    *,
    axes: Axes | None = None,
    legend: bool = True,
) -> Axes:
    """By what factor each arm is better than the reference, from the frame of `compare_runs`.

    Value over the reference's for shares, rates and hits, the inverse for latencies and losses:
    the right is always better, 1 is no difference, and 2 is as far from it as one half. Bars are
    the 95 % intervals of the frame; a hollow point has one that holds no difference, or none at
    all. What is 0 on either side has no factor and is left out. `metrics` are those of the frame;
    by default all of them, and of more than twelve those of `SHOWN`. Raises ConfigError for one
    that the frame does not have, and where it has none.
    """
    wanted = _wanted(list(dict.fromkeys(table["metric"])), metrics)
    arms = list(dict.fromkeys(table["arm"]))
    axes = given_or_new(axes, 8.0, 1.2 + (0.15 + 0.12 * len(arms)) * len(wanted))
    rows = table.set_index(["arm", "metric"])
    for number, arm in enumerate(arms):
        place = np.arange(len(wanted)) + (number - (len(arms) - 1) / 2) * 0.7 / len(arms)
        found = [rows.loc[(arm, name)] if (arm, name) in rows.index else None for name in wanted]
        # The reference has the first colour in other pictures of the same arms.
        _arm(axes, number + 1, arm, place, [_factors(row) for row in found])
    _finish(axes, wanted, str(table["reference"].iloc[0]))
    if legend:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return axes


def _wanted(known: Sequence[str], metrics: Sequence[str] | None) -> list[str]:
    """The metrics to draw; ConfigError where there are none, or one is not known."""
    if not known:
        raise ConfigError("expected metrics in the table, got none")
    if metrics is None:
        few = [name for name in SHOWN if name in known] if len(known) > _MANY else []
        return few or [*known]
    for name in metrics:
        if name not in known:
            raise ConfigError(f"metrics: expected some of {', '.join(known)}, got {name!r}")
    return [*metrics]


def metric_label(metric: str) -> str:
    """A metric in words: `chat: TTFT p99` for `classes.chat.p99_ttft_ms`."""
    _, group, key = split_metric(metric)
    latency = _LATENCY.fullmatch(key)
    if latency:
        words = f"{LATENCIES[latency[2]]} {latency[1].replace('p999', 'p99.9')}"
    else:
        plain = LATENCIES.get(key.removesuffix("_ms"), key)
        words = COMPARE_ROWS.get(key, plain).partition(" (")[0]
    return f"{group}: {words}" if group else words


def _factors(row: Any) -> tuple[float, float, float, bool]:
    """Factor, its bounds, and whether the interval holds no difference at all; NaN without."""
    if row is None or not (row["value"] > 0 and row["reference_value"] > 0):
        return np.nan, np.nan, np.nan, False
    base = float(row["reference_value"])
    ends = [max(_LEAST, 1 + float(row[side]) / base) for side in ("low", "high")]
    factor, clear = float(row["value"]) / base, row["contains_zero"] is not None
    clear = clear and row["contains_zero"] == False  # noqa: E712 (a numpy bool, or missing)
    if higher_is_better(str(row.name[1])):
        return factor, ends[0], ends[1], bool(clear)
    return 1 / factor, 1 / ends[1], 1 / ends[0], bool(clear)


def _arm(
    axes: Axes, number: int, name: str, place: Any, found: list[tuple[float, float, float, bool]]
) -> None:
    from superinfer.lab.pictures.parts import COLOURS, label

    colour, marker = COLOURS[number % len(COLOURS)], "osD^vP"[number % 6]
    factor, low, high = (np.array([each[part] for each in found]) for part in range(3))
    clear = np.array([each[3] for each in found])
    axes.hlines(place, low, high, color=colour, lw=1.6)
    looks: dict[str, Any] = {"ls": "", "marker": marker, "ms": 6, "color": colour}
    axes.plot(factor[~clear], place[~clear], mfc="white", zorder=4, **looks)
    axes.plot(factor[clear], place[clear], zorder=4, **looks)
    axes.plot([], [], label=label(name), **looks)


def _finish(axes: Axes, metrics: Sequence[str], reference: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    from superinfer.lab.pictures.parts import label

    axes.axvline(1.0, color="black", lw=1.0)
    axes.set_title(f"Differences from {label(reference)}, 95 % intervals", fontsize="medium")
    axes.set_xscale("log")
    low, high = _limits(axes)
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=15))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    for row in range(0, len(metrics), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="0.95", lw=0, zorder=0)
    axes.set_yticks(range(len(metrics)), [label(metric_label(name)) for name in metrics])
    axes.set_ylim(len(metrics) - 0.5, -0.5)
    axes.set_xlabel(
        f"times better than {label(reference)} (left of 1: worse; hollow: may be no difference)"
    )
    axes.grid(axis="x", alpha=0.3)


def _limits(axes: Axes) -> tuple[float, float]:
    """Room for every point; an interval may leave it."""
    points = np.concatenate([np.asarray(line.get_xdata(), float) for line in axes.lines])
    points = points[np.isfinite(points) & (points > 0)]
    return min(0.8, points.min() / 1.6), max(1.25, points.max() * 1.6)
