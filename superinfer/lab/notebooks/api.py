"""What `superinfer.lab` offers to notebooks: tables as pandas frames, pictures as matplotlib Axes.

The command line draws its own pictures with these functions (`superinfer.lab.pictures.figures`).

Every function takes a run, a list of runs, or a mapping from names to runs, where a run is a `Run`
or the path of a result folder. A table that was set on a `Run`, such as a selection of its
requests, is what is drawn:

    run.requests = run.requests[run.requests["tenant"] == "acme"]

Pictures are drawn on `axes` if they are given, otherwise on those of a figure of their own, and
the axes are returned; `legend=False` leaves the legend to the caller. Raises InputError where a
result file is missing or bad.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from superinfer.errors import ConfigError
from superinfer.lab.metric_names import Summary
from superinfer.lab.notebooks.run_sources import Arms, Sources, arms_of, plot_data_of
from superinfer.lab.numbers import mean_summary
from superinfer.lab.other_folders import path_of
from superinfer.lab.pictures.canvas import given_or_new, titled, with_legend, with_legend_below
from superinfer.lab.pictures.data import LATENCIES, PlotData
from superinfer.lab.pictures.latency_curves import check_class, check_latency, latency_curves
from superinfer.lab.results import Run
from superinfer.lab.studies.differences import METRICS, Difference, check_metrics, differences

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COMPARED_LATENCIES = [f"{quantile}_{key}_ms" for key in LATENCIES for quantile in ("median", "p99")]
"""What `plot_comparison` wants of `compare_runs`."""


def compare_runs(
    runs: Arms,
    metrics: str | Sequence[str] | None = None,
    reference: str | None = None,
) -> pd.DataFrame:
    """Differences of runs from the reference (the first one), with 95 % intervals.

    An arm of several seeds is a list of runs in a mapping. One row per arm and metric: `reference`
    is the name of the other arm, `value` and `reference_value` are means over the seeds;
    `difference`, `relative` (a share of the reference's value), `low` and `high` of the interval of
    the difference, `contains_zero` and `method`; the last four are missing where nothing honest can
    be said. `metrics` are keys of `summary.json`, or one of them, also `classes.<name>.<key>`; see
    `superinfer.lab.studies.differences` and `superinfer.lab.studies.intervals`. Raises ConfigError
    for a metric that no run has, and for arms with different numbers of seeds.
    """
    import pandas as pd

    arms = arms_of(runs)
    metrics = [metrics] if isinstance(metrics, str) else metrics
    if metrics is not None:
        check_metrics(arms, metrics)
    found = differences(arms, METRICS if metrics is None else metrics, reference)
    return pd.DataFrame([_row(each) for each in found], columns=_COLUMNS)


def plot_comparison(
    table: pd.DataFrame, metric: str = "ttft", *, axes: Axes | None = None, legend: bool = True
) -> Axes:
    """Median and p99 of a latency in ms, a row per arm, from the frame of `compare_runs`.

    `metric` is `ttft`, `itl` or `e2el`, ConfigError otherwise. The frame holds
    `COMPARED_LATENCIES`, or those of the metric; what it lacks is not drawn.
    """
    from superinfer.lab.pictures.parts import dumbbells

    check_latency(metric)
    title = LATENCIES[metric][0]
    axes = given_or_new(axes)
    wanted = [f"{quantile}_{metric}_ms" for quantile in ("median", "p99")]
    found = _values(table)
    names = dict.fromkeys(arm for arm, _ in found)
    median, p99 = ([found.get((arm, key), math.nan) for arm in names] for key in wanted)
    dumbbells(axes, title, dict(zip(names, zip(median, p99, strict=True), strict=True)))
    return with_legend(axes, legend)


def plot_latency_cdf(
    runs: Sources,
    metric: str = "ttft",
    *,
    slo_class: str | None = None,
    axes: Axes | None = None,
    legend: bool = True,
) -> Axes:
    """Share of finished requests (`itl`: of tokens) at or below a latency in ms.

    `metric` is `ttft`, `itl` or `e2el`. One run: a line per class, with the targets; several: a
    line per run, over all requests or those of `slo_class`. Raises ConfigError for another metric,
    or a class that a run does not have.
    """
    from superinfer.lab.pictures.parts import latency_panel

    shown = latency_curves(plot_data_of(runs), metric, slo_class)
    axes = given_or_new(axes)
    latency_panel(axes, shown)
    return with_legend(axes, legend)


def plot_slo_attainment(
    runs: Sources | Arms,
    *,
    slo_class: str | None = None,
    axes: Axes | None = None,
    legend: bool = True,
) -> Axes:
    """Share of submitted requests that met their targets: all of them, TTFT, TPOT.

    One run: the whole of it and each class; several: one group of bars per run, over all requests
    or those of `slo_class`. A list of runs in a mapping is one group: the mean over its seeds.
    Rejected and failed requests count as missed. Raises ConfigError for a class that a run does not
    have.
    """
    from superinfer.lab.pictures.parts import attainment_bars, say, share_bars

    arms = arms_of(runs)
    axes = titled(given_or_new(axes), "SLO attainment" + (f": {slo_class}" if slo_class else ""))
    groups = _attainment_groups(arms, slo_class)
    bars = attainment_bars(groups)
    if not bars:
        say(axes, "no request has a service-level objective")
        return axes
    share_bars(axes, list(groups), bars)
    return with_legend_below(axes, legend)


def plot_kv(runs: Sources, *, axes: Axes | None = None, legend: bool = True) -> Axes:
    """KV memory over time in GiB: one run by use, or what several runs' requests hold."""
    from superinfer.lab.pictures.over_time import kv_panel, load_lines

    several = partial(load_lines, column="referenced_blocks")
    return _over_time(plot_data_of(runs), "KV memory", kv_panel, several, axes, legend)


def plot_timeline(
    runs: Sources,
    column: Literal["waiting", "running"] = "waiting",
    *,
    axes: Axes | None = None,
    legend: bool = True,
) -> Axes:
    """Requests over time in s: waiting and running in one run, or `column` of several.

    Raises ConfigError for another column.
    """
    from superinfer.lab.pictures.over_time import load_lines, queue_panel

    data = plot_data_of(runs)
    if column not in ("waiting", "running"):
        raise ConfigError(f"column: expected waiting or running, got {column!r}")
    title = f"Requests {column}" if len(data) > 1 else "Requests waiting and running"
    return _over_time(data, title, queue_panel, partial(load_lines, column=column), axes, legend)


def plot_rotations(runs: Sources, *, axes: Axes | None = None, legend: bool = True) -> Axes:
    """Rotations per second over time: caches copied to the host, a line each for several runs."""
    from superinfer.lab.pictures.over_time import rate_lines, rotations_panel

    several = partial(rate_lines, columns=["rotations"])
    return _over_time(plot_data_of(runs), "Rotations", rotations_panel, several, axes, legend)


def plot_copies(runs: Sources, *, axes: Axes | None = None, legend: bool = True) -> Axes:
    """Copies over one GPU's link in GB/s over time: by direction, or the sum of several runs."""
    from superinfer.lab.pictures.over_time import copies_panel, rate_lines

    several = partial(rate_lines, columns=["h2d_bytes", "d2h_bytes"])
    title = "Copies between device and host"
    return _over_time(plot_data_of(runs), title, copies_panel, several, axes, legend)


def plot_requests(timeline: Path | str, most: int = 40, *, axes: Axes | None = None) -> Axes:
    """Phases of the first requests (at most `most`) of a `timeline.json`, over time in s, with
    marks for what was decided about them. `superinfer-sim run --timeline` writes the file.
    """
    from superinfer.lab.pictures.tracks import requests_panel, tracks_of

    tracks = tracks_of(path_of(timeline, "a timeline.json"), most)
    axes = given_or_new(axes, 11.0, 1.6 + 0.28 * max(len(tracks), 3))
    which = f"The first {most} requests" if len(tracks) == most else "Requests"
    requests_panel(titled(axes, f"{which}: phases and decisions"), tracks)
    return axes


# -- inside ---------------------------------------------------------------------------------------

_COLUMNS = [
    "arm",
    "reference",
    "metric",
    "value",
    "reference_value",
    "difference",
    "relative",
    "low",
    "high",
    "contains_zero",
    "method",
]


def _over_time(
    data: Mapping[str, PlotData],
    title: str,
    of_one: Callable[[Axes, PlotData], None],
    of_several: Callable[[Axes, Mapping[str, PlotData]], None],
    axes: Axes | None,
    legend: bool,
) -> Axes:
    """A picture over time, drawn in another way for several runs than for one."""
    axes = titled(given_or_new(axes), title)
    if len(data) == 1:
        of_one(axes, *data.values())
    else:
        of_several(axes, data)
    return with_legend(axes, legend)


def _row(found: Difference) -> list[object]:
    known = found.interval
    numbers = (found.value, found.reference_value, found.difference, found.relative)
    bounds = (known.low, known.high) if known else (None, None)
    plain = [math.nan if value is None else value for value in (*numbers, *bounds)]
    said = (known.contains_zero, known.method) if known else (None, None)
    return [found.arm, found.reference, found.metric, *plain, *said]


def _values(table: pd.DataFrame) -> dict[tuple[str, str], float]:
    """What `compare_runs` found, by arm and metric, the reference first."""
    arms, references, metrics = (table[name] for name in ("arm", "reference", "metric"))
    first = dict(zip(zip(references, metrics, strict=True), table["reference_value"], strict=True))
    return first | dict(zip(zip(arms, metrics, strict=True), table["value"], strict=True))


def _attainment_groups(
    arms: Mapping[str, Sequence[Run]], slo_class: str | None
) -> Mapping[str, Summary]:
    """Summaries by the name of their bars."""
    if slo_class is not None:
        for name, runs in arms.items():
            for run in runs:
                check_class({name: PlotData.of_run(run)}, slo_class)
        return {
            name: mean_summary([run.summary["classes"][slo_class] for run in runs])
            for name, runs in arms.items()
        }
    if len(arms) == 1:
        (runs,) = arms.values()
        if len(runs) == 1:
            return PlotData.of_run(runs[0]).attainment_groups()
    return {name: mean_summary([run.summary for run in runs]) for name, runs in arms.items()}
