"""What `superinfer.lab` offers to notebooks: tables as pandas frames, pictures as matplotlib Axes.

The command line draws its own pictures with these functions (`superinfer.lab.plots`).

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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from superinfer.errors import ConfigError
from superinfer.lab.differences import METRICS, Difference, check_metrics, differences
from superinfer.lab.numbers import mean_summary
from superinfer.lab.plot_data import LATENCIES, PlotData, Summary
from superinfer.lab.results import Run, load_run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Source = Run | Path | str
Sources = Source | Sequence[Source] | Mapping[str, Source]
Arms = Sequence[Source] | Mapping[str, Source | Sequence[Source]]

COMPARED_LATENCIES = [f"{quantile}_{key}_ms" for key in LATENCIES for quantile in ("median", "p99")]
"""What `plot_comparison` wants of `compare_runs`."""

_ALL = "all requests"


def compare_runs(
    runs: Arms,
    metrics: Sequence[str] | None = None,
    reference: str | None = None,
) -> pd.DataFrame:
    """Differences of runs from the reference (the first one), with 95 % intervals.

    An arm of several seeds is a list of runs in a mapping. One row per arm and metric: `reference`
    is the name of the other arm, `value` and `reference_value` are means over the seeds;
    `difference`, `relative` (a share of the reference's value), `low` and `high` of the interval of
    the difference, `contains_zero` and `method`; the last four are missing where nothing honest can
    be said. `metrics` are keys of `summary.json`, also `classes.<name>.<key>`; see
    `superinfer.lab.differences` and `superinfer.lab.intervals`.
    """
    import pandas as pd

    arms = _arms(runs)
    if metrics is not None:
        check_metrics(arms, metrics)
    found = differences(arms, METRICS if metrics is None else metrics, reference)
    return pd.DataFrame([_row(each) for each in found], columns=_COLUMNS)


def plot_comparison(
    table: pd.DataFrame, metric: str = "ttft", *, axes: Axes | None = None, legend: bool = True
) -> Axes:
    """Median and p99 of a latency in ms, a row per arm, from the frame of `compare_runs`.

    The frame holds `COMPARED_LATENCIES`, or those of the metric; what it lacks is not drawn.
    """
    from superinfer.lab.plot_parts import dumbbells

    title = _check_latency(metric)[0]
    axes = _axes(axes)
    wanted = [f"{quantile}_{metric}_ms" for quantile in ("median", "p99")]
    found = _values(table)
    names = dict.fromkeys(arm for arm, _ in found)
    median, p99 = ([found.get((arm, key), math.nan) for arm in names] for key in wanted)
    dumbbells(axes, title, dict(zip(names, zip(median, p99, strict=True), strict=True)))
    return _legend(axes, legend)


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
    line per run, over all requests or those of `slo_class`.
    """
    from superinfer.lab.plot_parts import latency_panel

    data = _data(runs)
    _check_latency(metric)
    axes = _axes(axes)
    if len(data) > 1 or slo_class is not None:
        _latency_by_run(axes, data, metric, slo_class)
    else:
        (only,) = data.values()
        latency_panel(axes, only, metric)
    return _legend(axes, legend)


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
    """
    from superinfer.lab.plot_parts import attainment_bars, say, share_bars

    arms = _arms(runs)
    axes = _axes(axes)
    groups = _attainment_groups(arms, slo_class)
    bars = attainment_bars(groups)
    if not bars:
        say(axes, "no request has a service-level objective")
        return axes
    share_bars(axes, list(groups), bars)
    return _legend(axes, legend)


def plot_kv(runs: Sources, *, axes: Axes | None = None, legend: bool = True) -> Axes:
    """KV memory over time in GiB: one run by use, or what several runs' requests hold."""
    from superinfer.lab.plot_parts import kv_panel, load_lines

    data = _data(runs)
    axes = _axes(axes)
    if len(data) == 1:
        kv_panel(axes, *data.values())
    else:
        load_lines(axes, data, "referenced_blocks")
    return _legend(axes, legend)


def plot_timeline(
    runs: Sources,
    column: Literal["waiting", "running"] = "waiting",
    *,
    axes: Axes | None = None,
    legend: bool = True,
) -> Axes:
    """Requests over time: waiting and running in one run, or one of both in several."""
    from superinfer.lab.plot_parts import load_lines, queue_panel

    data = _data(runs)
    if column not in ("waiting", "running"):
        raise ConfigError(f"column: expected waiting or running, got {column!r}")
    axes = _axes(axes)
    if len(data) == 1:
        queue_panel(axes, *data.values())
    else:
        load_lines(axes, data, column)
    return _legend(axes, legend)


def plot_rotations(runs: Sources, *, axes: Axes | None = None, legend: bool = True) -> Axes:
    """Rotations per second over time: caches copied to the host, a line each for several runs."""
    from superinfer.lab.plot_parts import rate_lines, rotations_panel

    data = _data(runs)
    axes = _axes(axes)
    if len(data) == 1:
        rotations_panel(axes, *data.values())
    else:
        rate_lines(axes, data, ["rotations"])
    return _legend(axes, legend)


def plot_copies(runs: Sources, *, axes: Axes | None = None, legend: bool = True) -> Axes:
    """Copies over one GPU's link in GB/s over time: by direction, or the sum of several runs."""
    from superinfer.lab.plot_parts import copies_panel, rate_lines

    data = _data(runs)
    axes = _axes(axes)
    if len(data) == 1:
        copies_panel(axes, *data.values())
    else:
        rate_lines(axes, data, ["h2d_bytes", "d2h_bytes"])
    return _legend(axes, legend)


def plot_requests(timeline: Path | str, most: int = 40, *, axes: Axes | None = None) -> Axes:
    """Phases of the first requests of a `timeline.json`, and what was decided about them."""
    from superinfer.lab.tracks import requests_panel, tracks_of

    tracks = tracks_of(Path(timeline), most)
    axes = _axes(axes, 11.0, 1.6 + 0.28 * max(len(tracks), 3))
    requests_panel(axes, tracks)
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


def _check_latency(metric: str) -> tuple[str, str, str]:
    """What belongs to a latency in `LATENCIES`."""
    if metric not in LATENCIES:
        raise ConfigError(f"metric: expected one of {', '.join(LATENCIES)}, got {metric!r}")
    return LATENCIES[metric]


def _run(source: Source) -> Run:
    return source if isinstance(source, Run) else load_run(source)


def _named(runs: Sources) -> dict[str, Run]:
    """Runs by name: the names given, or those of their folders, as far up as they differ."""
    if isinstance(runs, Mapping):
        return {name: _run(source) for name, source in runs.items()}
    loaded = [_run(source) for source in ([runs] if isinstance(runs, Source) else runs)]
    if not loaded:
        raise ConfigError("expected at least one run")
    folders = [run.folder.absolute().parts[1:] for run in loaded]
    for depth in range(1, max(map(len, folders)) + 1):
        names = ["/".join(parts[-depth:]) for parts in folders]
        if len(set(names)) == len(names):
            return dict(zip(names, loaded, strict=True))
    raise ConfigError(f"expected different runs, got {loaded[0].folder} more than once")


def _arms(runs: Sources | Arms) -> dict[str, list[Run]]:
    if not isinstance(runs, Mapping):
        return {name: [run] for name, run in _named(runs).items()}
    return {
        name: [_run(each)] if isinstance(each, Source) else [_run(source) for source in each]
        for name, each in runs.items()
    }


def _data(runs: Sources) -> dict[str, PlotData]:
    return {name: replace(PlotData.of_run(run), name=name) for name, run in _named(runs).items()}


def _attainment_groups(
    arms: Mapping[str, Sequence[Run]], slo_class: str | None
) -> Mapping[str, Summary]:
    """Summaries by the name of their bars."""
    if slo_class is not None:
        for name, run in [(name, run) for name, runs in arms.items() for run in runs]:
            _check_class({name: PlotData.of_run(run)}, slo_class)
        return {
            name: mean_summary([run.summary["classes"][slo_class] for run in runs])
            for name, runs in arms.items()
        }
    if len(arms) == 1:
        (runs,) = arms.values()
        if len(runs) == 1:
            return PlotData.of_run(runs[0]).attainment_groups()
    return {name: mean_summary([run.summary for run in runs]) for name, runs in arms.items()}


def _latency_by_run(
    axes: Axes, data: Mapping[str, PlotData], metric: str, slo_class: str | None
) -> None:
    """One line per run, and the target if all runs share it."""
    from superinfer.lab.plot_parts import cdf_panel

    title, of, kind = LATENCIES[metric]
    group = slo_class or _ALL
    shown = {name: each if slo_class else _merged(each) for name, each in data.items()}
    _check_class(shown, group)
    curves = {name: each.latency_curve(group, metric) for name, each in shown.items()}
    first, *others = [each.target_ms(group, kind) for each in shown.values()]
    same = first is not None and all(other == first for other in others)
    cdf_panel(axes, f"{title}: {group}", curves, {group: first} if same and first else {})
    axes.set_ylabel(of)


def _merged(data: PlotData) -> PlotData:
    """The same run with all requests in one class."""
    order = np.argsort(data.itl["gap_ms"], kind="stable")
    gaps = {name: column[order] for name, column in data.itl.items()}
    requests = {**data.requests, "class": _filled(data.requests["class"])}
    return replace(data, requests=requests, itl={**gaps, "class": _filled(gaps["class"])})


def _filled(column: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.full(column.size, _ALL, dtype=object)


def _check_class(data: Mapping[str, PlotData], group: str) -> None:
    for name, each in data.items():
        known = sorted(set(each.requests["class"].tolist()))
        if group not in known and known:
            raise ConfigError(f"{name}: expected a class of {', '.join(known)}, got {group!r}")


def _axes(axes: Axes | None, width: float = 7.0, height: float = 4.4) -> Axes:
    if axes is not None:
        return axes
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").subplots()


def _legend(axes: Axes, wanted: bool) -> Axes:
    if wanted and axes.get_legend_handles_labels()[0]:
        axes.legend(framealpha=0.85)
    return axes
