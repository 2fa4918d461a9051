"""Parts of pictures: bars and distributions, drawn on given axes, and the looks that all share.

Colours are those of Okabe and Ito (2008), told apart with every common colour blindness; line
styles, markers and hatches repeat what colour says, so that print in grey stays readable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)

from superinfer.lab.metric_names import Summary
from superinfer.lab.pictures.data import Curve
from superinfer.lab.pictures.latency_curves import LatencyCurves
from superinfer.records.run import Floats

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY = "#CC79A7", "#56B4E9", "#666666"

COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
STYLES = ("-", "--", "-.", (0, (3, 1, 1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
HATCHES = ("", "//", "..", "xx", "\\\\", "++")
ATTAINMENT = {
    "slo_attainment": ("all targets", BLUE, ""),
    "ttft_attainment": ("TTFT", ORANGE, "//"),
    "tpot_attainment": ("TPOT", GREEN, ".."),
    "paced_attainment": ("paced delivery", PURPLE, "xx"),
}
"""Kinds of attainment: label, colour and hatch."""

_DECADES = 20.0
"""An axis whose values span more than this factor is logarithmic."""
_TICKS = (((1.0, 2.0, 5.0), 0.3), ((1.0, 3.0), 0.47))
"""Numbers in each decade of a logarithmic axis, and the share of it between the nearest two."""
_ROOM = 36
"""Digits that stand side by side below the narrowest panels."""
_MARGIN = 1.1
"""An axis is so much longer than its values reach."""
_MANY = 8
"""With more groups of bars than this, words beside them are turned."""

Bars = tuple[Sequence[float | None], str, str]
"""Shares, colour and hatch."""


def label(name: str, most: int = 32) -> str:
    """A user's name as matplotlib shows it letter by letter: no markup, no control characters."""
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    if len(plain) > most:
        plain = f"{plain[: most - 3]}..."
    # A dollar starts mathematics; a legend leaves out labels that begin with an underscore.
    return (" " if plain.startswith("_") else "") + plain.replace("$", r"\$")


def line_look(number: int) -> dict[str, object]:
    """Colour and style of a curve; after the sixth, colours repeat in other styles."""
    style = (number + number // len(COLOURS)) % len(STYLES)
    return {"color": COLOURS[number % len(COLOURS)], "ls": STYLES[style]}


def bar_look(number: int) -> tuple[str, str]:
    """Colour and hatch of a bar; after the sixth, colours repeat with other hatches."""
    hatch = (number + number // len(COLOURS)) % len(HATCHES)
    return COLOURS[number % len(COLOURS)], HATCHES[hatch]


def say(axes: Axes, text: str) -> None:
    """Show a sentence where there is nothing to draw."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=GREY)


def per_cent(share: float | None) -> str:
    """A share as the number on top of its bar."""
    return "none" if share is None else f"{100 * share:.0f}" if share == 1 else f"{100 * share:.1f}"


def cdf_panel(
    axes: Axes, title: str, curves: Mapping[str, Curve], targets: Mapping[str, float]
) -> None:
    """One line per curve (ms), and a thin dotted vertical line at each target."""
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("ms")
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    known = [values for values, _ in curves.values() if values.size]
    if not known:
        axes.text(0.5, 0.5, "no values", ha="center", transform=axes.transAxes, color=GREY)
        return
    every = np.concatenate([*known, np.array(list(targets.values()))])
    scale(axes, every)
    # A wait of zero has no place on a logarithmic axis: it is drawn at the shortest other wait.
    floor = every[every > 0].min(initial=np.inf) if axes.get_xscale() == "log" else 0.0
    for number, (name, (values, share)) in enumerate(curves.items()):
        # From zero up at the first value: a single value is then a visible line too.
        shown = np.maximum(np.append(values[:1], values), floor)
        rise = np.append(np.zeros(values[:1].size), share)
        look = line_look(number)
        axes.step(shown, rise, where="post", lw=1.5, label=label(name), **look)  # type: ignore[arg-type]
    _mark_targets(axes, curves, targets)


def latency_panel(axes: Axes, shown: LatencyCurves) -> None:
    """A latency as CDF, and what is counted at its side."""
    cdf_panel(axes, shown.title, shown.curves, shown.targets)
    axes.set_ylabel(shown.of)


def dumbbells(axes: Axes, title: str, pairs: Mapping[str, tuple[float, float]]) -> None:
    """Per name a dot at the median and a triangle at p99 (ms, NaN if unknown), the first on top."""
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("ms")
    axes.grid(axis="x", alpha=0.3)
    values = np.array(list(pairs.values()), np.float64).reshape(-1, 2)
    rows = np.arange(len(values))
    axes.hlines(rows, values[:, 0], values[:, 1], color=GREY, lw=1.5)
    axes.plot(values[:, 0], rows, ls="", marker="o", color=BLUE, label="median")
    axes.plot(values[:, 1], rows, ls="", marker="^", color=RED, label="p99")
    axes.set_yticks(rows, [label(name) for name in pairs])
    axes.set_ylim(max(1, len(pairs)) - 0.5, -0.5)
    positive = values[values > 0]
    if not positive.size:
        axes.text(0.5, 0.5, "no values", ha="center", transform=axes.transAxes, color=GREY)
        return
    scale(axes, values[~np.isnan(values)])
    if axes.get_xscale() == "linear":
        axes.set_xlim(left=0)


def scale(axes: Axes, values: Floats) -> None:
    """Plain numbers on the x axis, which is logarithmic where values span decades."""
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.12g}"))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    positive = values[values > 0]
    span = positive.max() / positive.min() if positive.size else 1.0
    if span > _DECADES:
        axes.set_xscale("log")
        subs = _ticks(float(positive.max()), float(span))
        axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.12g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _ticks(most: float, span: float) -> tuple[float, ...]:
    """Where the decades of a logarithmic axis have numbers, so that none touches the next."""
    digits_apart = _ROOM / (_MARGIN * math.log10(span))
    longest = len(f"{most:,.0f}") + 1
    fit = (subs for subs, least in _TICKS if least * digits_apart >= longest)
    return next(fit, (1.0,))


def attainment_bars(groups: Mapping[str, Summary]) -> dict[str, Bars]:
    """The bars of those kinds of attainment that some group has."""
    found: dict[str, Bars] = {}
    for key, (name, colour, hatch) in ATTAINMENT.items():
        shares = [group.get(key) for group in groups.values()]
        if any(share is not None for share in shares):
            found[name] = (shares, colour, hatch)
    return found


def share_bars(axes: Axes, groups: Sequence[str], bars: Mapping[str, Bars]) -> None:
    """Groups of bars from 0 to 100 %, each with its number; the legend is the caller's."""
    width = 0.8 / max(1, len(bars))
    empty = {i for i in range(len(groups)) if all(bar[0][i] is None for bar in bars.values())}
    many = len(groups) > _MANY
    for i, (name, (shares, colour, hatch)) in enumerate(bars.items()):
        at = np.arange(len(groups)) + (i - (len(bars) - 1) / 2) * width
        heights = [share or 0.0 for share in shares]
        look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white"}
        drawn = axes.bar(at, heights, width, label=name, **look)
        texts = ["" if j in empty else per_cent(share) for j, share in enumerate(shares)]
        size = "xx-small" if many else "x-small"
        axes.bar_label(drawn, texts, fontsize=size, padding=2, rotation=90 if many else 0)
    for j in empty:
        axes.text(j, 0.01, "no targets", ha="center", va="bottom", fontsize="x-small", color=GREY)
    axes.set_xticks(
        range(len(groups)), [label(name, max(16, 64 // len(groups))) for name in groups]
    )
    if many:
        axes.tick_params(axis="x", rotation=25)
    axes.set_ylim(0, 1.12 if many else 1.08)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel("share that met it, of those with it")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _mark_targets(axes: Axes, curves: Mapping[str, Curve], targets: Mapping[str, float]) -> None:
    """A dotted vertical line at each different target, with the names of its curves beside it."""
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(curves)}
    for number, target in enumerate(sorted(set(targets.values()))):
        names = [name for name, value in targets.items() if value == target]
        colour = colours.get(names[0], "black") if len(names) == 1 else "black"
        axes.axvline(target, color=colour, ls=":", lw=1.1)
        low = _mean_share(curves, target) > 0.5
        axes.annotate(
            label(", ".join(names), 28), (target, 0.03 if low else 0.98),
            # On alternate sides, for targets of two classes are often close.
            xytext=(2 if number % 2 else -2, 0), ha="left" if number % 2 else "right",
            textcoords="offset points", rotation=90, va="bottom" if low else "top",
            fontsize="x-small", color=colour,
        )  # fmt: skip


def _mean_share(curves: Mapping[str, Curve], at: float) -> float:
    """Mean height of the curves at a value: names stand where there is room."""
    heights = [np.interp(at, *curve, left=0.0) for curve in curves.values() if curve[0].size]
    return float(np.mean(heights))
