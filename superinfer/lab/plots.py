"""Pictures of a run and of several runs, with matplotlib's object API and no display.

Colours are those of Okabe and Ito (2008), told apart with every common colour blindness; line
styles, markers and hatches repeat what colour says, so that print in grey stays readable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)

from superinfer.lab.plot_data import PlotData, Summary
from superinfer.lab.results import Run, load_run, replacing
from superinfer.record import Floats

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY = "#CC79A7", "#56B4E9", "#666666"

_DPI = 150
_COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
_STYLES = ("-", "--", "-.", (0, (3, 1, 1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
_DECADES = 20.0
"""An axis whose values span more than this factor is logarithmic."""
_GIB = 2.0**30


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
    with replacing(path) as staged:
        figure.savefig(staged, dpi=_DPI, format="png")
    return path


def plot_latency_cdf(data: PlotData) -> Figure:
    """Share of requests (TTFT, E2E) and of tokens (ITL) below a latency, one line per class."""
    figure = _figure(data.name, "latency", width=12.0, height=4.4)
    axes = figure.subplots(1, 3, sharey=True)
    classes = data.classes()
    ttft, itl, e2el = ({c: pick(data, c) for c in classes} for pick in (_ttft, _itl, _e2el))
    _cdf(axes[0], "Time to first token", ttft, _targets(data, "ttft_ms"))
    _cdf(axes[1], "Time between tokens", itl, _targets(data, "tpot_ms"))
    _cdf(axes[2], "End to end", e2el, _targets(data, "e2el_ms"))
    axes[0].set_ylabel("share of finished requests")
    axes[1].set_ylabel("share of tokens")
    axes[2].set_ylabel("share of finished requests")
    _class_legend(figure, data, classes)
    return figure


def plot_slo_attainment(data: PlotData) -> Figure:
    """Share of submitted requests that met their targets: all of them, TTFT and TPOT, by class."""
    groups: dict[str, Summary] = {"all": data.summary}
    known = data.summary.get("classes") or {}
    if len(known) > 1:
        groups |= {name: known[name] for name in data.classes() if name in known}
    width = max(8.0, 1.8 * len(groups))
    figure = _figure(data.name, "SLO attainment", width=width, height=4.4)
    axes = figure.subplots()
    if all(group.get("slo_attainment") is None for group in groups.values()):
        return _say(figure, axes, "no request has a service-level objective")
    _attainment_bars(axes, groups)
    _legend_below(figure, axes)
    return figure


def plot_queue_and_kv(data: PlotData) -> Figure:
    """Requests waiting and running, and KV memory by use, over the time of the run."""
    figure = _figure(data.name, "queue and KV memory", width=9.0, height=6.0)
    queue, memory = figure.subplots(2, 1, sharex=True)
    t = data.timeline["t_s"]
    if not t.size:
        queue.set_axis_off()
        return _say(figure, memory, "no samples of the replica's state")
    waiting = data.timeline["waiting"]
    queue.fill_between(t, 0, waiting, color=ORANGE, alpha=0.7, lw=0, label="waiting")
    queue.plot(t, data.timeline["running"], color=BLUE, lw=1.2, label="running")
    queue.set_ylabel("requests")
    queue.yaxis.set_major_locator(MaxNLocator(integer=True))
    _kv_areas(memory, data)
    memory.set_ylabel("KV memory (GiB)")
    memory.set_xlabel("time (s)")
    memory.set_xlim(float(t[0]), float(t[-1]) if t[-1] > t[0] else float(t[0]) + 1.0)
    for axes in (queue, memory):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def plot_compare(runs: Sequence[tuple[str, Summary]]) -> Figure:
    """Attainment, and median and p99 of each latency, across runs (the first one on top)."""
    names = [name for name, _ in runs]
    figure = Figure(figsize=(11.0, 2.6 + 0.7 * max(2, len(runs))), layout="constrained")
    figure.suptitle("Comparison of runs")
    axes = figure.subplots(2, 2, sharey=True).ravel()
    _compared_attainment(axes[0], [summary for _, summary in runs])
    panels = {
        "ttft": "Time to first token",
        "itl": "Time between tokens",
        "e2el": "End to end",
    }
    for panel, (key, title) in zip(axes[1:], panels.items(), strict=True):
        _dumbbells(panel, title, [_pair(summary, key) for _, summary in runs])
    axes[0].set_yticks(range(len(names)), [_short(name) for name in names])
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
    figure.suptitle(f"{_short(name, 60)}: {what}" if name else what.capitalize())
    return figure


def _short(name: str, most: int = 32) -> str:
    return name if len(name) <= most else f"{name[: most - 3]}..."


def _say(figure: Figure, axes: Axes, text: str) -> Figure:
    """Show a sentence where there is nothing to draw."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=GREY)
    return figure


def _ttft(data: PlotData, name: str) -> tuple[Floats, Floats]:
    return _finished(data, name, "ttft_ms")


def _e2el(data: PlotData, name: str) -> tuple[Floats, Floats]:
    return _finished(data, name, "e2el_ms")


def _finished(data: PlotData, name: str, column: str) -> tuple[Floats, Floats]:
    """Ascending values (ms) of finished requests, and the share of them at or below each."""
    table = data.requests
    rows = (table["class"] == name) & (table["state"] == "finished")
    values = np.sort(table[column][rows])
    return values, np.arange(1, values.size + 1) / max(1, values.size)


def _itl(data: PlotData, name: str) -> tuple[Floats, Floats]:
    rows = data.itl["class"] == name
    until = np.cumsum(data.itl["weight"][rows])
    return data.itl["gap_ms"][rows], until / until[-1] if until.size else until


def _targets(data: PlotData, kind: str) -> dict[str, float]:
    found = {name: data.target_ms(name, kind) for name in data.classes()}
    return {name: target for name, target in found.items() if target is not None}


def _cdf(
    axes: Axes,
    title: str,
    lines: dict[str, tuple[Floats, Floats]],
    targets: dict[str, float],
) -> None:
    """One line per class, and a thin dotted vertical line at each target."""
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("ms")
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    known = [values for values, _ in lines.values() if values.size]
    if not known:
        axes.text(0.5, 0.5, "no values", ha="center", transform=axes.transAxes, color=GREY)
        return
    every = np.concatenate([*known, np.array(list(targets.values()))])
    _scale(axes, every)
    # A wait of zero has no place on a logarithmic axis: it is drawn at the shortest other wait.
    floor = every[every > 0].min(initial=np.inf) if axes.get_xscale() == "log" else 0.0
    for i, (values, share) in enumerate(lines.values()):
        # From zero up at the first value: a single value is then a visible line too.
        shown = np.maximum(np.append(values[:1], values), floor)
        rise = np.append(np.zeros(values[:1].size), share)
        axes.step(shown, rise, where="post", color=_COLOURS[i], ls=_STYLES[i], lw=1.5)
    _mark_targets(axes, dict(zip(lines, _COLOURS, strict=False)), targets)


def _scale(axes: Axes, values: Floats) -> None:
    """Plain numbers on the x axis; logarithmic, with ticks at 1-2-5, where values span decades."""
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.12g}"))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    positive = values[values > 0]
    span = positive.max() / positive.min() if positive.size else 1.0
    if span > _DECADES:
        axes.set_xscale("log")
        subs = (1.0, 2.0, 5.0) if span < 300 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.12g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _mark_targets(axes: Axes, colours: Mapping[str, str], targets: Mapping[str, float]) -> None:
    """A dotted vertical line at each different target, with the class names beside it."""
    for target in sorted(set(targets.values())):
        names = [name for name, value in targets.items() if value == target]
        colour = colours[names[0]] if len(names) == 1 else "black"
        axes.axvline(target, color=colour, ls=":", lw=1.1)
        text = _short(", ".join(names), 28)
        axes.annotate(
            text, (target, 0.03), xytext=(-2, 0), textcoords="offset points", rotation=90,
            ha="right", va="bottom", fontsize="x-small", color=colour,
        )  # fmt: skip


def _class_legend(figure: Figure, data: PlotData, classes: list[str]) -> None:
    lines = [
        Line2D([], [], color=_COLOURS[i], ls=_STYLES[i], label=_short(name))
        for i, name in enumerate(classes)
    ]
    if any(_targets(data, kind) for kind in ("ttft_ms", "tpot_ms", "e2el_ms")):
        lines.append(Line2D([], [], color=GREY, ls=":", lw=1.0, label="target (TPOT for tokens)"))
    hidden = len(set(data.requests["class"].tolist())) - len(classes)
    if hidden > 0:
        lines.append(Line2D([], [], ls="", label=f"({hidden} smaller classes not shown)"))
    if lines:
        figure.legend(handles=lines, loc="outside lower center", ncols=4, frameon=False)


def _attainment_bars(axes: Axes, groups: Mapping[str, Summary]) -> None:
    kinds = {
        "slo_attainment": ("all targets", BLUE, ""),
        "ttft_attainment": ("TTFT", ORANGE, "//"),
        "tpot_attainment": ("TPOT", GREEN, ".."),
        "paced_attainment": ("paced delivery", PURPLE, "xx"),
    }
    kinds = {k: v for k, v in kinds.items() if any(g.get(k) is not None for g in groups.values())}
    width = 0.8 / len(kinds)
    for i, (key, (label, colour, hatch)) in enumerate(kinds.items()):
        at = np.arange(len(groups)) + (i - (len(kinds) - 1) / 2) * width
        shares = [group.get(key) for group in groups.values()]
        heights = [share or 0.0 for share in shares]
        bars = axes.bar(
            at,
            heights,
            width,
            label=label,
            color=colour,
            hatch=hatch,
            edgecolor="white",
        )
        axes.bar_label(bars, [_per_cent(share) for share in shares], fontsize="x-small", padding=2)
    axes.set_xticks(range(len(groups)), [_short(name, 16) for name in groups])
    axes.set_ylim(0, 1.08)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel("share of requests with that target")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _per_cent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.0f}" if share == 1 else f"{100 * share:.1f}"


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)


def _kv_areas(axes: Axes, data: PlotData) -> None:
    """Referenced below cached, stacked; host memory and the capacity as lines."""
    t, gib = data.timeline["t_s"], data.sizes.get("block_bytes", 0) / _GIB
    held = data.timeline["referenced_blocks"] * gib
    with_cache = held + data.timeline["cached_blocks"] * gib
    axes.fill_between(t, 0, held, color=BLUE, alpha=0.75, lw=0, label="in use")
    axes.fill_between(
        t, held, with_cache, facecolor=SKY, alpha=0.5, hatch="///", edgecolor="white", lw=0,
        label="kept for reuse",
    )  # fmt: skip
    if data.timeline["host_blocks"].any():
        axes.plot(
            t,
            data.timeline["host_blocks"] * gib,
            color=RED,
            ls="--",
            lw=1.3,
            label="host",
        )
    capacity = data.sizes.get("total_blocks", 0) * gib
    if capacity:
        axes.axhline(capacity, color="black", ls=":", lw=1.3, label="device capacity")


def _compared_attainment(axes: Axes, runs: Sequence[Summary]) -> None:
    axes.set_title("SLO attainment", fontsize="medium")
    shares = [summary.get("slo_attainment") for summary in runs]
    if all(share is None for share in shares):
        axes.text(0.5, 0.5, "no request has a target", ha="center", transform=axes.transAxes)
    bars = axes.barh(range(len(runs)), [s or 0.0 for s in shares], height=0.55, color=BLUE)
    axes.bar_label(bars, [_per_cent(share) for share in shares], padding=3, fontsize="small")
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
    _scale(axes, values[~np.isnan(values)])
    if axes.get_xscale() == "linear":
        axes.set_xlim(left=0)
