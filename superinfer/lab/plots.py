"""Pictures of a run and of several runs, with matplotlib's object API and no display."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from superinfer.lab.plot_data import Curve, PlotData, Summary
from superinfer.lab.plot_parts import (
    BLUE,
    GREY,
    RED,
    attainment_bars,
    cdf_panel,
    kv_panel,
    label,
    line_look,
    per_cent,
    queue_panel,
    say,
    scale,
    share_bars,
)
from superinfer.lab.results import Run, load_run, replacing

_DPI = 150


def write_plots(source: Path | str | Run | PlotData, out_dir: Path | str) -> list[Path]:
    """Write every picture of a run as PNG (150 dpi) into `out_dir`, and return the paths."""
    data = source if isinstance(source, PlotData) else PlotData.of_run(_run(source))
    pictures: dict[str, Callable[[PlotData], Figure]] = {
        "latency_cdf.png": plot_latency_cdf,
        "slo_attainment.png": plot_slo_attainment,
        "queue_and_kv.png": plot_queue_and_kv,
    }
    return [save(draw(data), Path(out_dir) / name) for name, draw in pictures.items()]


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all."""
    with replacing(path) as staged, warnings.catch_warnings():
        # A name in a script that the font lacks shows as boxes; that is no reason for noise.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(staged, dpi=_DPI, format="png")
    return path


def plot_latency_cdf(data: PlotData) -> Figure:
    """Share of requests (TTFT, E2E) and of tokens (ITL) below a latency, one line per class."""
    figure = _figure(data.name, "latency", width=12.0, height=4.4)
    axes = figure.subplots(1, 3, sharey=True)
    for panel, key in zip(axes, ("ttft", "itl", "e2el"), strict=True):
        latency_panel(panel, data, key)
    _class_legend(figure, data)
    return figure


def latency_panel(axes: Axes, data: PlotData, key: str) -> None:
    """The CDF of `ttft`, `itl` or `e2el` on its own axes, one line per class."""
    title, of, kind = LATENCIES[key]
    curves = {name: latency_curve(data, name, key) for name in data.classes()}
    found = {name: data.target_ms(name, kind) for name in curves}
    targets = {name: target for name, target in found.items() if target is not None}
    cdf_panel(axes, title, curves, targets)
    axes.set_ylabel(of)


LATENCIES = {
    "ttft": ("Time to first token", "share of finished requests", "ttft_ms"),
    "itl": ("Time between tokens", "share of tokens", "tpot_ms"),
    "e2el": ("End to end", "share of finished requests", "e2el_ms"),
}
"""Title, what is counted, and the target that belongs to it."""


def latency_curve(data: PlotData, name: str, key: str) -> Curve:
    """Distribution of a latency of `LATENCIES` in one class."""
    return data.itl_curve(name) if key == "itl" else data.latency_curve(name, f"{key}_ms")


def plot_slo_attainment(data: PlotData) -> Figure:
    """Share of submitted requests that met their targets: all of them, TTFT and TPOT, by class."""
    groups = attainment_groups(data)
    without = groups["all"].get("slo_attainment") is None
    width, height = max(8.0, 1.8 * len(groups)), 1.5 if without else 4.4
    figure = _figure(data.name, "SLO attainment", width=width, height=height)
    axes = figure.subplots()
    if without:
        say(axes, "no request has a service-level objective")
        return figure
    share_bars(axes, list(groups), attainment_bars(groups))
    _legend_below(figure, axes)
    return figure


def attainment_groups(data: PlotData) -> dict[str, Summary]:
    """The whole run as `all`, then its classes where there are several."""
    groups: dict[str, Summary] = {"all": data.summary}
    known = data.summary.get("classes") or {}
    if len(known) > 1:
        groups |= {name: known[name] for name in data.classes() if name in known}
    return groups


def plot_queue_and_kv(data: PlotData) -> Figure:
    """Requests waiting and running, and KV memory by use, over the time of the run."""
    figure = _figure(data.name, "queue and KV memory", width=9.0, height=6.0)
    queue, memory = figure.subplots(2, 1, sharex=True)
    if not data.timeline["t_s"].size:
        queue.set_axis_off()
        say(memory, "no samples of the replica's state")
        return figure
    queue_panel(queue, data)
    kv_panel(memory, data)
    queue.set_xlabel("")
    for axes in (queue, memory):
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def plot_compare(runs: Sequence[tuple[str, Summary]]) -> Figure:
    """Attainment, and median and p99 of each latency, across runs (the first one on top)."""
    names = [name for name, _ in runs]
    figure = Figure(figsize=(11.0, 2.6 + 0.7 * max(2, len(runs))), layout="constrained")
    figure.suptitle("Comparison of runs")
    axes = figure.subplots(2, 2, sharey=True).ravel()
    _compared_attainment(axes[0], [summary for _, summary in runs])
    for panel, (key, (title, _, _)) in zip(axes[1:], LATENCIES.items(), strict=True):
        _dumbbells(panel, title, [_pair(summary, key) for _, summary in runs])
    axes[0].set_yticks(range(len(names)), [label(name) for name in names])
    axes[0].set_ylim(max(1, len(names)) - 0.5, -0.5)
    _legend_below(figure, axes[1])
    return figure


def write_compare_plot(runs: Sequence[tuple[str, Summary]], path: Path | str) -> Path:
    """Write `plot_compare` of `runs` as PNG."""
    return save(plot_compare(runs), Path(path))


def _run(source: Path | str | Run) -> Run:
    return source if isinstance(source, Run) else load_run(source)


def _figure(name: str, what: str, *, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(f"{label(name, 60)}: {what}" if name else what.capitalize())
    return figure


def _class_legend(figure: Figure, data: PlotData) -> None:
    classes = data.classes()
    lines = [
        Line2D([], [], label=label(name), **line_look(i))  # type: ignore[arg-type]
        for i, name in enumerate(classes)
    ]
    if any(data.target_ms(name, kind) for name in classes for *_, kind in LATENCIES.values()):
        lines.append(Line2D([], [], color=GREY, ls=":", lw=1.0, label="target (TPOT for tokens)"))
    hidden = len(set(data.requests["class"].tolist())) - len(classes)
    if hidden > 0:
        lines.append(Line2D([], [], ls="", label=f"({hidden} smaller classes not shown)"))
    if lines:
        figure.legend(handles=lines, loc="outside lower center", ncols=4, frameon=False)


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)


def _compared_attainment(axes: Axes, runs: Sequence[Summary]) -> None:
    axes.set_title("SLO attainment", fontsize="medium")
    shares = [summary.get("slo_attainment") for summary in runs]
    if all(share is None for share in shares):
        axes.text(0.5, 0.5, "no request has a target", ha="center", transform=axes.transAxes)
    bars = axes.barh(range(len(runs)), [s or 0.0 for s in shares], height=0.55, color=BLUE)
    axes.bar_label(bars, [per_cent(share) for share in shares], padding=3, fontsize="small")
    axes.set_xlim(0, 1.12)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("share of submitted requests")


def _pair(summary: Summary, key: str) -> tuple[float, float]:
    """Median and p99 in ms, NaN where unknown."""
    found = np.array([summary.get(f"{q}_{key}_ms") for q in ("median", "p99")], np.float64)
    return float(found[0]), float(found[1])


def _dumbbells(axes: Axes, title: str, pairs: list[tuple[float, float]]) -> None:
    """Per run a dot at the median and a triangle at p99, joined by a line."""
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("ms")
    axes.grid(axis="x", alpha=0.3)
    values = np.array(pairs, np.float64).reshape(-1, 2)
    rows = np.arange(len(values))
    axes.hlines(rows, values[:, 0], values[:, 1], color=GREY, lw=1.5)
    axes.plot(values[:, 0], rows, ls="", marker="o", color=BLUE, label="median")
    axes.plot(values[:, 1], rows, ls="", marker="^", color=RED, label="p99")
    positive = values[values > 0]
    if not positive.size:
        axes.text(0.5, 0.5, "no values", ha="center", transform=axes.transAxes, color=GREY)
        return
    scale(axes, values[~np.isnan(values)])
    if axes.get_xscale() == "linear":
        axes.set_xlim(left=0)
