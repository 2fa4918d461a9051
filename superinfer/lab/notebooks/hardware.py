"""Simulation against hardware: recorded pairs of a device's value and the simulated one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from superinfer.errors import ConfigError
from superinfer.lab.json_files import read_json
from superinfer.lab.other_folders import path_of
from superinfer.lab.pictures.canvas import given_or_new, with_legend

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_PAIR = ("metric", "device", "simulated")
_BAND = 0.1
"""The band around equality that `plot_parity` shades."""

Row = tuple[Any, ...]


def load_resimulated(path: Path | str) -> pd.DataFrame:
    """The file of `python -m experiments.resimulate --record`: runs of a device, simulated again.

    A row per policy, cost model and metric: `group` (the policy), `cost_model` (what the simulator
    knew of, least first), `metric` (a key of `summary.json`), `device` and `simulated` in its unit,
    and `error` = simulated / device - 1, NaN where the device's value is 0. Raises InputError for
    another file.
    """

    def rows(found: Mapping[str, Any]) -> Iterator[Row]:
        for policy, models in found["policies"].items():
            for model, metrics in models.items():
                for metric, pair in metrics.items():
                    yield policy, model, metric, pair["device"], pair["simulated"]

    return _frame(path, rows, ("group", "cost_model", *_PAIR))


def load_steady(path: Path | str) -> pd.DataFrame:
    """The `summary.json` of `python -m experiments.accuracy steady`: measured steady states.

    A row per point and metric (`ttft_ms`, `tpot_ms`): `group` (model and device), `point`, `tp`,
    `metric`, `device` and `simulated` in ms, and `error` = simulated / device - 1.
    Raises InputError for another file.
    """

    def rows(found: Mapping[str, Any]) -> Iterator[Row]:
        for point in found["points"]:
            group = point["group"].partition(" TP ")[0]
            for metric in ("ttft_ms", "tpot_ms"):
                pair = point[metric], point["simulated"][metric]
                yield group, point["name"], point["tp"], metric, *pair

    return _frame(path, rows, ("group", "point", "tp", *_PAIR))


def gain_frame(frame: pd.DataFrame, reference: str, other: str) -> pd.DataFrame:
    """What a policy changes on the device, and in simulation: a row per metric, `device` and
    `simulated` as a share of the reference policy's value (-0.4: 40 % less).

    `frame` is that of `load_resimulated` with one cost model. Raises ConfigError for a policy that
    it does not have, or several cost models.
    """
    known = list(dict.fromkeys(frame["group"]))
    for name in (reference, other):
        if name not in known:
            raise ConfigError(f"expected one of {', '.join(known)}, got {name!r}")
    if frame.duplicated(["group", "metric"]).any():
        raise ConfigError("expected a frame with one cost model")
    sides = {
        name: frame[frame["group"] == name].set_index("metric")[["device", "simulated"]]
        for name in (reference, other)
    }
    base = sides[reference]
    gains: pd.DataFrame = sides[other].reindex(base.index) / base.where(base != 0) - 1
    return gains.dropna()


def plot_parity(
    frame: pd.DataFrame, *, axes: Axes | None = None, legend: bool = True, unit: str = "ms"
) -> Axes:
    """Simulated over measured values on logarithmic axes, a colour and marker per `group`.

    On the line both are equal; the band is 10 % to either side. Points that are 0 are left out.
    Raises ConfigError for a frame without points.
    """
    from superinfer.lab.pictures.differences import metric_label
    from superinfer.lab.pictures.parts import GREY, label

    shown = frame[(frame["device"] > 0) & (frame["simulated"] > 0)]
    if shown.empty:
        raise ConfigError("expected at least one point above 0")
    axes = given_or_new(axes, 6.0, 5.4)
    values = shown[["device", "simulated"]].to_numpy()
    ends = np.array([values.min() / 1.3, values.max() * 1.3])
    axes.fill_between(ends, ends * (1 - _BAND), ends * (1 + _BAND), color=GREY, alpha=0.18, lw=0)
    axes.plot(ends, ends, color="black", lw=0.9)
    for number, (name, rows) in enumerate(shown.groupby("group", sort=False)):
        look = _points(number, str(name))
        axes.plot(rows["device"], rows["simulated"], ms=5, alpha=0.75, mew=0, **look)
    metrics = ", ".join(metric_label(name) for name in dict.fromkeys(shown["metric"]))
    axes.set_title(f"{label(metrics)}: simulated against measured", fontsize="medium")
    _parity_axes(axes, ends, unit)
    return with_legend(axes, legend)


def plot_errors(
    frame: pd.DataFrame,
    metrics: Sequence[str] | None = None,
    *,
    axes: Axes | None = None,
    legend: bool = True,
) -> Axes:
    """Error of the simulator in per cent, a row per metric and a marker per `group`.

    Right of 0 the simulator says more than the device had. `metrics` (by default all) are those of
    the frame; raises ConfigError where it has none of them.
    """
    from superinfer.lab.pictures.differences import metric_label
    from superinfer.lab.pictures.parts import label

    known = list(dict.fromkeys(frame["metric"]))
    wanted = known if metrics is None else [name for name in metrics if name in known]
    if not wanted:
        raise ConfigError(f"metrics: expected some of {', '.join(known)}")
    axes = given_or_new(axes, 7.0, 1.2 + 0.3 * len(wanted))
    for number, (name, rows) in enumerate(frame.groupby("group", sort=False)):
        errors = 100 * rows.set_index("metric")["error"].reindex(wanted)
        axes.plot(errors, np.arange(len(wanted)), ms=7, **_points(number, str(name)))
    axes.axvline(0, color="black", lw=1.0)
    axes.set_yticks(range(len(wanted)), [label(metric_label(name)) for name in wanted])
    axes.set_ylim(len(wanted) - 0.5, -0.5)
    axes.set_title("Error of the simulator", fontsize="medium")
    axes.set_xlabel("simulated less measured (% of measured)")
    axes.grid(alpha=0.3)
    return with_legend(axes, legend)


def _points(number: int, group: str) -> dict[str, Any]:
    """Colour, marker and name of the points of a group."""
    from superinfer.lab.pictures.parts import COLOURS, label

    colour, marker = COLOURS[number % len(COLOURS)], "o^sDvP"[number % 6]
    return {"ls": "", "marker": marker, "color": colour, "label": label(group)}


def _parity_axes(axes: Axes, ends: np.ndarray[Any, Any], unit: str) -> None:
    from matplotlib.ticker import FuncFormatter

    for axis, words in ((axes.xaxis, "measured"), (axes.yaxis, "simulated")):
        axis.set_label_text(f"{words} ({unit})")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.12g}"))
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_aspect("equal")
    axes.grid(alpha=0.3)


def _frame(
    path: Path | str, rows: Callable[[Any], Iterator[Row]], columns: Sequence[str]
) -> pd.DataFrame:
    import pandas as pd

    expected = "recorded pairs of device and simulation"
    found = read_json(path_of(path, "recorded pairs"), lambda read: list(rows(read)), expected)
    frame = pd.DataFrame(found, columns=list(columns))
    device = frame["device"].astype(float)
    return frame.assign(error=frame["simulated"].astype(float) / device.where(device != 0) - 1)
