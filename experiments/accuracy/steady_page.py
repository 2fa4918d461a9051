"""The page and the picture of the steady-state comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.studykit.pictures import write_png
from experiments.studykit.record import provenance
from experiments.tables.parts import Lines, Numbers, page_of

MARKERS = "osD^vPX<>"


def page(summary: dict[str, Any]) -> str:
    """`results.md`: errors by group, the worst points, all points."""
    errors, worst = summary["median_errors"]["all"], summary["worst"]
    return page_of(
        "# Steady state: simulated against measured",
        provenance(summary["made_by"], f"{errors['points']} measured points"),
        f"Median absolute error over all points: TPOT {errors['tpot']:.1%}, "
        f"TTFT {errors['ttft']:.1%}. Fitted: host time before a step, "
        f"{summary['host_step_ms']['h100']:g} ms.",
        "![simulated over measured](scatter.png)",
        "## By model, device and degree",
        "Median absolute error and median signed error (bias).",
        group_lines(summary),
        "## By lengths of prompt and answer",
        "In tokens; all degrees and numbers of clients together.",
        shape_lines(summary),
        f"## The worst {len(worst)}",
        "Each was run again under one other assumption at a time; the last columns name the one "
        "that comes closest.",
        _worst(worst),
        "## All points",
        "Milliseconds, measured and simulated (means over all requests).",
        _points(summary["points"]),
    )


def group_lines(summary: Numbers) -> Lines:
    """Errors of all points, and by model, device and degree."""
    return _error_lines(summary["median_errors"])


def shape_lines(summary: Numbers) -> Lines:
    """Errors by model, device, prompt and answer."""
    return _error_lines(summary["by_shape"])


def _error_lines(groups: Numbers) -> Lines:
    yield "| | points | TPOT, median absolute error | bias | TTFT, median absolute error | bias |"
    yield "|---|--:|--:|--:|--:|--:|"
    for name, errors in groups.items():
        cells = [f"{100 * errors['tpot']:.1f} %", f"{100 * errors['tpot_bias']:+.1f} %"]
        cells += [f"{100 * errors['ttft']:.1f} %", f"{100 * errors['ttft_bias']:+.1f} %"]
        yield f"| {name} | {errors['points']} | {' | '.join(cells)} |"


def share_lines(summary: Numbers) -> Lines:
    """How many points are how close."""
    words = []
    for metric, limits in (("tpot", (0.05, 0.1)), ("ttft", (0.12, 0.25))):
        off = [
            abs(point["simulated"][f"{metric}_ms"] / point[f"{metric}_ms"] - 1.0)
            for point in summary["points"]
        ]
        close = (
            f"{sum(each <= limit for each in off) / len(off):.0%} of the points are within "
            f"{limit:.0%}"
            for limit in limits
        )
        words.append(f"{metric.upper()}: {', '.join(close)}.")
    yield " ".join(words).replace("%", " %")


def _worst(points: Sequence[Numbers]) -> Lines:
    yield "| point | metric | error | preemptions | closer with | error then |"
    yield "|---|---|--:|--:|---|--:|"
    for each in points:
        then = "-" if each["closest"] is None else f"{each['closest_error']:+.1%}"
        yield (
            f"| {each['name']} | {each['metric'].upper()} | {each['error']:+.1%} | "
            f"{each['preemptions']:,} | {each['closest'] or 'nothing tried'} | {then} |"
        )


def _points(points: Sequence[Numbers]) -> Lines:
    yield "| point | TPOT | simulated | | TTFT | simulated | |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for point in points:
        cells = list[str]()
        for metric in ("tpot_ms", "ttft_ms"):
            measured, found = point[metric], point["simulated"][metric]
            cells += [f"{measured:.4g}", f"{found:.4g}", f"{found / measured - 1:+.1%}"]
        yield f"| {point['name']} | {' | '.join(cells)} |"


def write_scatter(summary: Mapping[str, Any], path: Path) -> None:
    """Simulated over measured, a panel for TPOT and one for TTFT, both on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 5.6), layout="constrained")
    for axes, metric, bar in zip(
        figure.subplots(1, 2), ("tpot", "ttft"), (0.05, 0.12), strict=True
    ):
        _panel(axes, summary, metric, bar)
    write_png(figure, path)


def _panel(axes: Any, summary: Mapping[str, Any], metric: str, bar: float) -> None:
    from superinfer.lab.pictures.parts import COLOURS, GREY

    groups: dict[str, list[tuple[float, float]]] = {}
    for point in summary["points"]:
        pair = (point[f"{metric}_ms"], point["simulated"][f"{metric}_ms"])
        groups.setdefault(point["group"], []).append(pair)
    for number, (name, pairs) in enumerate(groups.items()):
        measured, found = zip(*pairs, strict=True)
        look = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        axes.scatter(measured, found, s=26, alpha=0.75, linewidths=0, label=name, **look)
    ends = [min(min(pair) for each in groups.values() for pair in each) / 1.2]
    ends.append(max(max(pair) for each in groups.values() for pair in each) * 1.2)
    axes.plot(ends, ends, color=GREY, linewidth=1)
    low, high = ([end * (1 + sign * bar) for end in ends] for sign in (-1, 1))
    axes.fill_between(ends, low, high, color=GREY, alpha=0.15, label=f"within {bar:.0%}")
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    axes.set_xlabel(f"measured {metric.upper()}, ms")
    axes.set_ylabel(f"simulated {metric.upper()}, ms")
    error = summary["median_errors"]["all"][metric]
    axes.set_title(f"{metric.upper()}: median absolute error {error:.1%}")
    axes.legend(fontsize=8)
