"""Pictures of the study: curves over the load, and what each mechanism adds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.scenarios.arms import (
    CHUNKED,
    FCFS,
    KV4,
    PREFILL_FIRST,
    PRIORITY_SWAP,
    QOSERVE,
    ROTASCHED_VLT,
    ROTATING,
    label,
)
from experiments.scenarios.measures import ATTAINMENT, BATCH, P99_TTFT
from experiments.scenarios.settings import KEPT_SHARE
from experiments.studykit.pictures import faint_grid, footnote, log_y_axis, scaled, write_png
from experiments.tables.parts import Numbers
from superinfer.lab.pictures.parts import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_LOOKS: Mapping[str, dict[str, Any]] = {
    CHUNKED: {"color": GREY, "marker": "s", "ls": "--"},
    PREFILL_FIRST: {"color": GREY, "marker": "s", "ls": "--"},
    FCFS: {"color": ORANGE, "marker": "^", "ls": ":"},
    "sglang-tuned": {"color": PURPLE, "marker": "v", "ls": ":"},
    "tensorrt-llm-tuned": {"color": GREEN, "marker": "P", "ls": ":"},
    "vllm-v1-tuned": {"color": SKY, "marker": "X", "ls": "--"},
    "edf-tuned": {"color": "#666633", "marker": "*", "ls": ":"},
    QOSERVE: {"color": "#8C6D31", "marker": "<", "ls": "-."},
    ROTASCHED_VLT: {"color": "#CC3399", "marker": ">", "ls": "-."},
    PRIORITY_SWAP: {"color": BLUE, "marker": "D", "ls": "-."},
    KV4: {"color": RED, "marker": "o", "ls": "--", "mfc": "white"},
    ROTATING: {"color": RED, "marker": "o", "ls": "-"},
}
"""The arms that are drawn: of vLLM v0.6.0 the reference alone, so both modes look the same."""
_PANELS = (
    (ATTAINMENT, "chat attainment (%)", 100.0),
    (P99_TTFT, "chat P99 TTFT (s)", 1e-3),
    (BATCH, "batch output (tokens/s)", 1.0),
)
SWEEP, MECHANISMS = "sweep.png", "mechanisms.png"


def write_pictures(summary: Numbers, folder: Path) -> list[str]:
    """Write the pictures for which there is something; returns their names."""
    parts = summary["parts"]
    swept = {name: part for name, part in parts.items() if "sweep" in part}
    changed = {
        name: part["ablation"]["differences"]
        for name, part in parts.items()
        if part.get("ablation", {}).get("differences")
    }
    pictures: dict[str, Figure] = {}
    if swept:
        pictures[SWEEP] = _sweep_figure(swept)
    if changed:
        pictures[MECHANISMS] = _mechanism_figure(changed)
    for name, figure in pictures.items():
        write_png(figure, folder / name)
    return list(pictures)


# -- inside ---------------------------------------------------------------------------------------


def _sweep_figure(parts: Numbers) -> Figure:
    """One row per setting: attainment, P99 TTFT and batch tokens/s over the chat rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.7 * len(parts) + 1.2), layout="constrained")
    grid = figure.subplots(len(parts), len(_PANELS), squeeze=False)
    for row, (name, part) in zip(grid, parts.items(), strict=True):
        for axes, panel in zip(row, _PANELS, strict=True):
            _sweep_panel(axes, part, panel)
        row[0].set_title(f"{name}: {part['title']}", loc="left", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("chat requests/s")
    lines = {line.get_label(): line for axes in grid[:, 0] for line in axes.get_lines()}
    known = {str(name): line for name, line in lines.items() if not str(name).startswith("_")}
    figure.legend(known.values(), known.keys(), loc="outside upper center", ncols=5, frameon=False)
    footnote(
        figure,
        "Simulated. Means over the seeds, ranges from the lowest to the highest of them; the "
        "vertical line is the load of the comparison.",
    )
    return figure


def _sweep_panel(axes: Axes, part: Numbers, panel: tuple[str, str, float]) -> None:
    key, title, scale = panel
    rates = np.array(part["sweep"]["rates_per_s"])
    hidden = {CHUNKED, PREFILL_FIRST} - {part["star"]["reference"]}
    for arm in (name for name in _LOOKS if name not in hidden):
        found = part["sweep"]["arms"].get(arm)
        if found is None:
            continue
        means = scaled((each[key]["mean"] for each in found), scale)
        axes.plot(rates, means, label=label(arm), ms=4, lw=1.5, **_LOOKS[arm])
        seeds = [scaled(each[key]["by_seed"], scale) for each in found]
        low, high = ([pick(each) for each in seeds] for pick in (np.min, np.max))
        axes.fill_between(rates, low, high, color=_LOOKS[arm]["color"], alpha=0.15, lw=0)
    axes.axvline(part["star"]["rate_per_s"], color="0.7", lw=1, zorder=0)
    axes.set_ylabel(title)
    faint_grid(axes)
    if key == ATTAINMENT:
        axes.set_ylim(-3, 103)
        axes.axhline(100 * KEPT_SHARE, color="0.7", lw=1, ls=":", zorder=0)
    elif key == P99_TTFT:
        log_y_axis(axes)
        low_s, high_s = axes.get_ylim()
        axes.set_ylim(min(low_s, 0.45), max(high_s, 2.2))  # more than one labelled tick
        axes.axhline(1.0, color="0.7", lw=1, ls=":", zorder=0)
    else:
        axes.set_ylim(bottom=0)


def _mechanism_figure(parts: Numbers) -> Figure:
    """Differences of the scheduler without a mechanism from the whole, with intervals."""
    from matplotlib.figure import Figure

    most = max(map(len, parts.values()))
    figure = Figure(figsize=(10, len(parts) * (0.26 * most + 1.1) + 0.4), layout="constrained")
    grid = figure.subplots(len(parts), 2, squeeze=False)
    for row, (name, found) in zip(grid, parts.items(), strict=True):
        _mechanism_panel(row[0], found, (ATTAINMENT, "", "chat attainment (points)"))
        _mechanism_panel(row[1], found, (BATCH, "relative", "batch output tokens/s (%)"))
        row[0].set_title(f"{name}: without a mechanism, less the whole", loc="left", fontsize=9)
        row[1].set_yticklabels([])
    footnote(figure, "Simulated. Means over the seeds with paired 95 % intervals.")
    return figure


def _mechanism_panel(axes: Axes, found: Numbers, panel: tuple[str, str, str]) -> None:
    key, kind, title = panel
    names = ("relative", "relative_low", "relative_high") if kind else ("difference", "low", "high")
    values, low, high = (scaled((each[key][n] for each in found.values()), 100) for n in names)
    places = np.arange(len(found))
    errors = np.nan_to_num(np.array([values - low, high - values])).clip(min=0)
    axes.errorbar(values, places, xerr=errors, fmt="o", color=RED, ecolor=GREEN, capsize=3, ms=4)
    axes.axvline(0, color="0.5", lw=1, zorder=0)
    axes.set_yticks(places, list(found))
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel(title)
    faint_grid(axes, "x")
