"""Pictures of tails: how few requests wait how long, and how far targets are from being met."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from superinfer.lab.notebooks.run_sources import Sources, plot_data_of
from superinfer.lab.pictures.canvas import given_or_new, with_legend
from superinfer.lab.pictures.data import PlotData
from superinfer.lab.pictures.latency_curves import LatencyCurves, check_class, latency_curves
from superinfer.lab.report.hurt import miss_factors
from superinfer.records.run import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_QUANTILES = {0.5: "P50", 0.1: "P90", 0.01: "P99", 0.001: "P99.9"}
_SCALES = (0.1, 10.0)
"""Multiples of the targets that are drawn."""


def plot_latency_tail(
    runs: Sources,
    metric: str = "ttft",
    *,
    slo_class: str | None = None,
    axes: Axes | None = None,
    legend: bool = True,
) -> Axes:
    """Share of finished requests (`itl`: of tokens) that took longer than a latency in ms, on a
    logarithmic axis: P99 is where a line crosses 1 %.

    Takes what `plot_latency_cdf` takes, and raises what it raises.
    """
    from superinfer.lab.pictures.parts import label, line_look, scale

    shown = latency_curves(plot_data_of(runs), metric, slo_class)
    axes = given_or_new(axes)
    axes.set_title(shown.title, fontsize="medium")
    axes.set_xlabel("ms")
    axes.set_ylabel(f"{shown.of} that took longer")
    drawn = {name: curve for name, curve in shown.curves.items() if curve[0].size}
    for number, (name, (values, share)) in enumerate(drawn.items()):
        look: dict[str, Any] = line_look(number)
        axes.step(
            np.append(values[0], values), np.append(1.0, 1 - share),
            where="post", lw=1.5, label=label(name), **look,
        )  # fmt: skip
    _mark_targets(axes, shown)
    if drawn:
        scale(axes, np.concatenate([values for values, _ in drawn.values()]))
    _quantile_axis(axes, [share for _, share in drawn.values()])
    return with_legend(axes, legend)


def plot_slo_scale(
    runs: Sources,
    *,
    slo_class: str | None = None,
    axes: Axes | None = None,
    legend: bool = True,
) -> Axes:
    """SLO attainment if every target were a multiple of what it is: a line per run.

    At 1 it is the attainment of the summary. The requests stay as they were served: a scheduler
    that decides by deadlines would have decided otherwise had it been told other targets. Targets
    are those that all requests of a class share; requests that did not finish never meet them.
    Raises ConfigError for a class that a run does not have.
    """
    from superinfer.lab.pictures.parts import GREY, label, line_look, say

    data = plot_data_of(runs)
    if slo_class is not None:
        check_class(data, slo_class)
    axes = given_or_new(axes)
    curves = attainment_by_scale(data, slo_class)
    if not curves:
        say(axes, "no request has a service-level objective")
        return axes
    for number, (name, (factors, share)) in enumerate(curves.items()):
        look: dict[str, Any] = line_look(number)
        axes.step(factors, share, where="post", lw=1.5, label=label(name), **look)
    axes.axvline(1.0, color=GREY, ls=":", lw=1.1)
    axes.set_title(f"SLO attainment: {slo_class or 'all requests'}", fontsize="medium")
    _scale_axes(axes)
    return with_legend(axes, legend)


def attainment_by_scale(
    data: Mapping[str, PlotData], slo_class: str | None = None
) -> dict[str, tuple[Floats, Floats]]:
    """Ascending multiples of the targets and the attainment from each on, by run; runs in which
    nobody has a target are left out.
    """
    found: dict[str, tuple[Floats, Floats]] = {}
    for name, each in data.items():
        rows = each.measured()
        if slo_class is not None:
            rows = rows & (each.requests["class"] == slo_class)
        factors = np.sort(miss_factors(each)[rows])
        factors = factors[~np.isnan(factors)]
        if factors.size:
            met = factors[np.isfinite(factors)]  # the others did not finish
            share = np.arange(met.size + 1) / factors.size
            end = max(_SCALES[1], float(met.max(initial=0.0)))
            found[name] = np.array([0.0, *met, end]), np.append(share, share[-1])
    return found


def _mark_targets(axes: Axes, shown: LatencyCurves) -> None:
    """A dotted line at each target, in the colour of its class if that has it for itself."""
    from superinfer.lab.pictures.parts import COLOURS, GREY

    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(shown.curves)}
    for number, target in enumerate(sorted(set(shown.targets.values()))):
        names = [name for name, value in shown.targets.items() if value == target]
        colour = colours.get(names[0], GREY) if len(names) == 1 and len(colours) > 1 else GREY
        text = "_" if number else "target"
        axes.axvline(target, color=colour, ls=":", lw=1.3, label=text)


def _quantile_axis(axes: Axes, shares: list[Floats]) -> None:
    """A logarithmic axis of shares down to the smallest one, with the names of quantiles."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    least = min((float((1 - share[share < 1]).min(initial=1.0)) for share in shares), default=0.01)
    floor = max(least / 2, 1e-5)
    axes.set_yscale("log", nonpositive="clip")
    axes.set_ylim(floor, 1.3)
    ticks = [1.0, *(at for at in _QUANTILES if at >= floor)]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda y, _: f"{100 * y:g} %" + (f" ({_QUANTILES[y]})" if y < 1 else ""))
    )
    axes.grid(alpha=0.3)


def _scale_axes(axes: Axes) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

    axes.set_xscale("log")
    axes.set_xlim(*_SCALES)
    axes.xaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 5, 10]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}x"))
    axes.set_xlabel("targets, as a multiple of what was asked for")
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel("share of requests with targets")
    axes.grid(alpha=0.3)
