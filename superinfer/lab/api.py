"""What `superinfer.lab` offers to notebooks: tables as pandas frames, pictures as matplotlib Axes.

Every function takes a run, a list of runs, or a mapping from names to runs, where a run is a `Run`
or the path of a result folder. A table that was set on a `Run`, such as a selection of its
requests, is what is drawn:

    run.requests = run.requests[run.requests["tenant"] == "acme"]

Pictures are drawn on `axes` if they are given, otherwise on those of a figure of their own, and
the axes are returned. Raises InputError where a result file is missing or bad.
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
from superinfer.lab.plot_data import PlotData
from superinfer.lab.results import Run, load_run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Source = Run | Path | str
Sources = Source | Sequence[Source] | Mapping[str, Source]
Latency = Literal["ttft", "itl", "e2el"]

_ALL = "all requests"


def compare_runs(
    runs: Sequence[Source] | Mapping[str, Source | Sequence[Source]],
    metrics: Sequence[str] | None = None,
    reference: str | None = None,
) -> pd.DataFrame:
    """Differences of runs from the reference (the first one), with 95 % intervals.

    An arm of several seeds is a list of runs in a mapping. One row per arm and metric: `value` and
    `reference_value` (means over the seeds), `difference`, `relative` (a share of the reference's
    value), `low` and `high` of the interval of the difference, `contains_zero` and `method`; the
    last four are missing where nothing honest can be said. `metrics` are keys of `summary.json`,
    also `classes.<name>.<key>`; see `superinfer.lab.differences` and `superinfer.lab.intervals`.
    """
    import pandas as pd

    arms = _arms(runs)
    if metrics is not None:
        check_metrics(arms, metrics)
    found = differences(arms, METRICS if metrics is None else metrics, reference)
    return pd.DataFrame([_row(each) for each in found], columns=_COLUMNS)


def plot_latency_cdf(
    runs: Sources,
    metric: Latency = "ttft",
    *,
    slo_class: str | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Share of finished requests (`itl`: of tokens) at or below a latency in ms.

    One run: a line per class, with the targets; several: a line per run, over all requests or
    those of `slo_class`.
    """
    from superinfer.lab.plots import LATENCIES, latency_panel

    data = _data(runs)
    if metric not in LATENCIES:
        raise ConfigError(f"metric: expected one of {', '.join(LATENCIES)}, got {metric!r}")
    axes = _axes(axes)
    if len(data) > 1 or slo_class is not None:
        return _latency_by_run(axes, data, metric, slo_class)
    (only,) = data.values()
    latency_panel(axes, only, metric)
    return _with_legend(axes, only.classes())


def plot_slo_attainment(
    runs: Sources, *, slo_class: str | None = None, axes: Axes | None = None
) -> Axes:
    """Share of submitted requests that met their targets: all of them, TTFT, TPOT.

    One run: the whole of it and each class; several: one group of bars per run, over all requests
    or those of `slo_class`.
    """
    from superinfer.lab.plot_parts import attainment_bars, say, share_bars
    from superinfer.lab.plots import attainment_groups

    data = _data(runs)
    axes = _axes(axes)
    if len(data) == 1 and slo_class is None:
        groups = attainment_groups(next(iter(data.values())))
    elif slo_class is None:
        groups = {name: each.summary for name, each in data.items()}
    else:
        _check_class(data, slo_class)
        groups = {name: each.summary["classes"][slo_class] for name, each in data.items()}
    bars = attainment_bars(groups)
    if not bars:
        say(axes, "no request has a service-level objective")
        return axes
    share_bars(axes, list(groups), bars)
    axes.legend(framealpha=0.85)
    return axes


def plot_kv(runs: Sources, *, axes: Axes | None = None) -> Axes:
    """KV memory over time in GiB: one run by use, or what several runs' requests hold."""
    from superinfer.lab.plot_parts import kv_panel, load_lines

    data = _data(runs)
    axes = _axes(axes)
    if len(data) == 1:
        kv_panel(axes, next(iter(data.values())))
    else:
        load_lines(axes, data, "referenced_blocks")
    axes.legend(framealpha=0.85)
    return axes


def plot_timeline(
    runs: Sources,
    column: Literal["waiting", "running"] = "waiting",
    *,
    axes: Axes | None = None,
) -> Axes:
    """Requests over time: waiting and running in one run, or one of both in several."""
    from superinfer.lab.plot_parts import load_lines, queue_panel

    data = _data(runs)
    if column not in ("waiting", "running"):
        raise ConfigError(f"column: expected waiting or running, got {column!r}")
    axes = _axes(axes)
    if len(data) == 1:
        queue_panel(axes, next(iter(data.values())))
    else:
        load_lines(axes, data, column)
    axes.legend(framealpha=0.85)
    return axes


def plot_requests(timeline: Path | str, most: int = 40, *, axes: Axes | None = None) -> Axes:
    """Phases of the first requests of a `timeline.json`, and what was decided about them."""
    from superinfer.lab.tracks import requests_panel, tracks_of

    axes = _axes(axes)
    requests_panel(axes, tracks_of(Path(timeline), most))
    return axes


# -- inside ---------------------------------------------------------------------------------------

_COLUMNS = [
    "arm",
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
    return [found.arm, found.metric, *plain, *said]


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


def _arms(
    runs: Sequence[Source] | Mapping[str, Source | Sequence[Source]],
) -> dict[str, list[Run]]:
    if not isinstance(runs, Mapping):
        return {name: [run] for name, run in _named(runs).items()}
    return {
        name: [_run(each)] if isinstance(each, Source) else [_run(source) for source in each]
        for name, each in runs.items()
    }


def _data(runs: Sources) -> dict[str, PlotData]:
    return {name: _plot_data(name, run) for name, run in _named(runs).items()}


def _plot_data(name: str, run: Run) -> PlotData:
    """Arrays of a run, from its tables where they were read or replaced."""
    data = replace(PlotData.of_run(run), name=name)
    for table in ("requests", "itl", "timeline"):
        if table in vars(run):
            frame: pd.DataFrame = getattr(run, table)
            setattr(data, table, {key: frame[key].to_numpy() for key in frame.columns})
    return data


def _latency_by_run(
    axes: Axes, data: Mapping[str, PlotData], metric: Latency, slo_class: str | None
) -> Axes:
    """One line per run, and the target if all runs share it."""
    from superinfer.lab.plot_parts import cdf_panel
    from superinfer.lab.plots import LATENCIES, latency_curve

    title, of, kind = LATENCIES[metric]
    group = slo_class or _ALL
    shown = {name: each if slo_class else _merged(each) for name, each in data.items()}
    _check_class(shown, group)
    curves = {name: latency_curve(each, group, metric) for name, each in shown.items()}
    first, *others = [each.target_ms(group, kind) for each in shown.values()]
    same = first is not None and all(other == first for other in others)
    cdf_panel(axes, f"{title}: {group}", curves, {group: first} if same and first else {})
    axes.set_ylabel(of)
    return _with_legend(axes, list(curves))


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


def _axes(axes: Axes | None) -> Axes:
    if axes is not None:
        return axes
    from matplotlib.figure import Figure

    return Figure(figsize=(7.0, 4.4), layout="constrained").subplots()


def _with_legend(axes: Axes, names: Sequence[str]) -> Axes:
    """A legend for curves in the order in which they were drawn."""
    from superinfer.lab.plot_parts import label

    curves = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    if curves:
        axes.legend(curves, [label(name) for name in names], framealpha=0.85)
    return axes
