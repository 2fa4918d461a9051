"""A picture of every part: attainment, P99 latency and throughput over the load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.headline.measures import ATTAINMENT, E2E, TOKENS, TTFT
from experiments.headline.settings import (
    KEPT_SHARE,
    OURS,
    OURS_KV4,
    SGLANG_TUNED,
    TRT_TUNED,
    VLLM,
    VLLM_TUNED,
    label,
)
from experiments.scenarios.arms import SGLANG, TENSORRT_LLM
from experiments.studykit.measures import Measure
from experiments.studykit.pictures import faint_grid, footnote, log_y_axis, scaled, write_png
from experiments.tables.parts import Numbers
from superinfer.lab.pictures.parts import BLUE, GREEN, GREY, ORANGE, RED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = (ATTAINMENT, E2E, TTFT, TOKENS)
_LOOKS: Mapping[str, dict[str, Any]] = {
    VLLM: {"color": GREY, "marker": "s", "ls": ":"},
    VLLM_TUNED: {"color": GREY, "marker": "s", "ls": "-"},
    TENSORRT_LLM: {"color": GREEN, "marker": "P", "ls": ":"},
    TRT_TUNED: {"color": GREEN, "marker": "P", "ls": "-"},
    SGLANG: {"color": BLUE, "marker": "v", "ls": ":"},
    SGLANG_TUNED: {"color": BLUE, "marker": "v", "ls": "-"},
    OURS_KV4: {"color": ORANGE, "marker": "o", "ls": "--", "mfc": "white"},
    OURS: {"color": RED, "marker": "o", "ls": "-", "lw": 2.4, "zorder": 3},
}
"""A colour per system; dotted as it comes, solid as tuned."""
_MANY = 6.0
"""Latencies that span more than this factor have a logarithmic axis."""


def write_pictures(summary: Numbers, folder: Path) -> None:
    """One PNG per part."""
    for name, part in summary["parts"].items():
        write_png(_figure(part), folder / f"{name}.png")


# -- inside ---------------------------------------------------------------------------------------


def _figure(part: Numbers) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    panels = figure.subplots(1, len(_PANELS))
    for axes, measure in zip(panels, _PANELS, strict=True):
        _panel(axes, part["sweep"], measure)
    lines = panels[0].get_lines()[: len(part["sweep"]["arms"])]
    names = [str(line.get_label()) for line in lines]
    figure.legend(lines, names, loc="outside upper center", ncols=4, frameon=False)
    footnote(
        figure,
        f"{part['title']}. Load as a multiple of the reference load, at which vLLM 0.6.0 keeps "
        f"{100 * KEPT_SHARE:g} %. Simulated; means over {part['sweep']['seeds']} seeds, shades "
        "from the lowest to the highest.",
    )
    return figure


def _panel(axes: Axes, sweep: Numbers, measure: Measure) -> None:
    for arm, points in sweep["arms"].items():
        found = [point[measure.key] for point in points]
        mean = scaled((each["mean"] for each in found), measure.scale)
        look = {"ms": 4.5, "lw": 1.5, **_LOOKS[arm]}
        axes.plot(sweep["factors"], mean, label=label(arm), **look)
        seeds = np.array([scaled(each["by_seed"], measure.scale) for each in found])
        low, high = seeds.min(axis=1), seeds.max(axis=1)
        axes.fill_between(sweep["factors"], low, high, color=look["color"], alpha=0.1, lw=0)
    axes.set_xticks(sweep["factors"][:: 1 if len(sweep["factors"]) < 7 else 2])
    axes.set_title(measure.title, fontsize=10)
    faint_grid(axes)
    if measure == ATTAINMENT:
        axes.set_ylim(-3, 103)
        axes.axhline(100 * KEPT_SHARE, color="0.7", lw=1, ls=":", zorder=0)
    elif measure in (E2E, TTFT) and _spans_much(axes):
        log_y_axis(axes)
    else:
        axes.set_ylim(bottom=0)
    axes.axvline(1.0, color="0.7", lw=1, zorder=0)


def _spans_much(axes: Axes) -> bool:
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.get_lines()])
    known = values[np.isfinite(values)]
    return bool(known.size and known.max() > _MANY * known.min())
