"""The pictures beside a result: the public plots of `superinfer.lab`, put together and stored.

Figures use matplotlib's object API and no display.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from superinfer.lab.notebooks.api import (
    COMPARED_LATENCIES,
    compare_runs,
    plot_comparison,
    plot_copies,
    plot_kv,
    plot_latency_cdf,
    plot_requests,
    plot_rotations,
    plot_slo_attainment,
    plot_timeline,
)
from superinfer.lab.notebooks.run_sources import Source, run_of
from superinfer.lab.numbers import mean_summary
from superinfer.lab.pictures.canvas import legend_below, write_png
from superinfer.lab.pictures.data import LATENCIES, PlotData
from superinfer.lab.pictures.parts import GREY, attainment_bars, label, say
from superinfer.lab.results import Run

_DPI = 150


def write_plots(source: Source, out_dir: Path | str) -> list[Path]:
    """Write every picture of a run as PNG (150 dpi) into `out_dir`, and return the paths.

    `slo_attainment.png` is there only if any request has a target, `rotations.png` only if anything
    was copied.
    """
    run = run_of(source)
    pictures: dict[str, Callable[[Run], Figure]] = {"latency_cdf.png": latency_figure}
    if attainment_bars(PlotData.of_run(run).attainment_groups()):
        pictures["slo_attainment.png"] = attainment_figure
    pictures["queue_and_kv.png"] = queue_and_kv_figure
    if PlotData.of_run(run).moved():
        pictures["rotations.png"] = rotations_figure
    return [write_png(draw(run), Path(out_dir) / name, _DPI) for name, draw in pictures.items()]


def write_requests_plot(timeline: Path) -> Path:
    """Write the picture of the first requests of a `timeline.json` beside it."""
    return write_png(_figure_of(plot_requests(timeline)), timeline.with_name("requests.png"), _DPI)


def write_compare_plot(runs: Mapping[str, Sequence[Run]], path: Path | str) -> Path:
    """Write `compare_figure` of `runs` as PNG."""
    return write_png(compare_figure(runs), Path(path), _DPI)


def latency_figure(source: Source) -> Figure:
    """Share of requests (TTFT, E2E) and of tokens (ITL) below a latency, one line per class."""
    run = run_of(source)
    figure = _figure(run, "latency", width=12.0, height=4.4)
    panels = figure.subplots(1, 3, sharey=True)
    for axes, metric in zip(panels, LATENCIES, strict=True):
        plot_latency_cdf(run, metric, axes=axes, legend=False)
    _class_legend(figure, panels[0], PlotData.of_run(run))
    return figure


def attainment_figure(source: Source) -> Figure:
    """Share of submitted requests that met their targets: all of them, TTFT and TPOT, by class."""
    run = run_of(source)
    groups = PlotData.of_run(run).attainment_groups()
    height = 1.5 if run.summary.get("slo_attainment") is None else 4.4
    figure = _figure(run, "SLO attainment", width=max(8.0, 1.8 * len(groups)), height=height)
    bars = plot_slo_attainment(run, axes=figure.subplots(), legend=False)
    bars.set_title("")  # the figure has it
    legend_below(figure, bars)
    return figure


def queue_and_kv_figure(source: Source) -> Figure:
    """Requests waiting and running, and KV memory by use, over the time of the run."""
    return _over_time(run_of(source), "queue and KV memory", plot_timeline, plot_kv)


def rotations_figure(source: Source) -> Figure:
    """Rotations, and bytes on each direction of the link, over the time of the run."""
    return _over_time(run_of(source), "rotations and copies", plot_rotations, plot_copies)


def compare_figure(runs: Mapping[str, Sequence[Run]]) -> Figure:
    """Attainment where any request has a target, and median and p99 of each latency, across
    arms; means where they have seeds.
    """
    whole = {name: mean_summary([run.summary for run in each]) for name, each in runs.items()}
    judged = bool(attainment_bars(whole))
    height = (5.6 if judged else 2.6) + 0.3 * len(runs)
    figure = Figure(figsize=(12.0, height), layout="constrained")
    figure.suptitle(_compared_title(next(iter(runs.values()))[0]))
    *above, below = figure.subfigures(1 + judged, 1, squeeze=False)[:, 0]
    for part in above:
        bars = plot_slo_attainment(runs, axes=part.subplots(), legend=False)
        bars.set_title("")  # the axis says what it is
        legend_below(part, bars)
    panels = below.subplots(1, 3, sharey=True)
    table = compare_runs(runs, COMPARED_LATENCIES)
    for axes, metric in zip(panels, LATENCIES, strict=True):
        plot_comparison(table, metric, axes=axes, legend=False)
    legend_below(below, panels[0])
    return figure


# -- inside ---------------------------------------------------------------------------------------


def _figure_of(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def _figure(run: Run, what: str, *, width: float, height: float) -> Figure:
    name = PlotData.of_run(run).name
    figure = Figure(figsize=(width, height), layout="constrained")
    simulated = ", simulated" if (run.summary.get("run") or {}).get("simulated") else ""
    title = f"{label(name, 60)}: {what}" if name else what.capitalize()
    figure.suptitle(f"{title}{simulated}")
    return figure


def _compared_title(run: Run) -> str:
    """The trace, model and device of the first arm, and whether they were simulated."""
    about = run.summary.get("run") or {}
    what = about.get("run") or {}
    known = [str(what[key]) for key in ("model", "device") if what.get(key)]
    if what.get("trace"):
        known.insert(0, PurePath(what["trace"]).name)
    parts = ["Comparison of runs", *(label(each, 60) for each in known)]
    return ", ".join([*parts, "simulated"] if about.get("simulated") else parts)


def _over_time(run: Run, what: str, *plots: Callable[..., Axes]) -> Figure:
    """Two panels over the same time, each with its legend at the right."""
    figure = _figure(run, what, width=9.0, height=6.0)
    above, below = figure.subplots(2, 1, sharex=True)
    if not run.columns("timeline")["t_s"].size:
        above.set_axis_off()
        say(below, "no samples of the replica's state")
        return figure
    for axes, plot in zip((above, below), plots, strict=True):
        plot(run, axes=axes, legend=False).set_title("")  # the figure has one
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            where = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
            axes.legend(handles, labels, frameon=False, **where)
    above.set_xlabel("")
    return figure


def _class_legend(figure: Figure, axes: Axes, data: PlotData) -> None:
    """The curves' classes, what a dotted line is, and how many classes have no curve."""
    lines: list[Artist] = list(axes.get_legend_handles_labels()[0])
    targets = [
        data.target_ms(name, kind) for name in data.classes() for *_, kind in LATENCIES.values()
    ]
    if any(targets):
        lines.append(Line2D([], [], color=GREY, ls=":", lw=1.0, label="target (TPOT for tokens)"))
    hidden = len(set(data.requests["class"].tolist())) - len(data.classes())
    if hidden > 0:
        lines.append(Line2D([], [], ls="", label=f"({hidden} smaller classes not shown)"))
    if lines:
        figure.legend(handles=lines, loc="outside lower center", ncols=4, frameon=False)
