"""The picture of the study: what the two tiers get under each flood, an arm in each row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.fairness.settings import FLOODS
from experiments.studykit.pictures import faint_grid, footnote, scaled, write_png
from superinfer.lab.pictures.parts import BLUE, GREY, RED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = "fairness.png"
_SHARE = "free.got"
_PANELS = (
    ("paid.slo_attainment", "paying requests in time (%)", 100.0, False),
    ("free.median_ttft_ms", "free tier: TTFT median (s)", 1e-3, True),
    ("free.worst_wait_ms", "free tier: worst wait (s)", 1e-3, True),
    (_SHARE, "free tier: share of prompt tokens (%)", 100.0, False),
)
_LOOKS: Mapping[str, dict[str, Any]] = {
    "calm": {"color": GREY, "marker": "o"},
    "hurry": {"color": RED, "marker": "D"},
    "free": {"color": BLUE, "marker": "s"},
}


def write_picture(summary: Mapping[str, Any], folder: Path) -> None:
    """Write the picture."""
    from matplotlib.figure import Figure

    floods = summary["floods"]
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    row = figure.subplots(1, len(_PANELS), sharey=True)
    for axes, (key, title, scale, log) in zip(row, _PANELS, strict=True):
        _panel(axes, floods, key, scale)
        axes.set_xlabel(title)
        if log:
            axes.set_xscale("log")
        else:
            axes.set_xlim(0, None)
    lines, labels = row[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside upper center", ncols=3, frameon=False)
    footnote(figure, "Simulated, Llama-3.1-70B on four A100-80G.")
    write_png(figure, folder / PICTURE)


def _panel(axes: Axes, floods: Mapping[str, Any], key: str, scale: float) -> None:
    """A mark per arm and flood; what the free tier asked for in a flood is a line."""
    arms = next(iter(floods.values()))
    for number, (name, found) in enumerate(floods.items()):
        if key == _SHARE and name == "calm":
            continue  # of an idle machine it is a share of little
        values = scaled((each[key] for each in found.values()), scale)
        places = np.arange(len(found)) + 0.18 * (number - 1)  # equal values stay apart
        look = {"ls": "", "ms": 6, "clip_on": False, "zorder": 3, **_LOOKS[name]}
        axes.plot(values, places, label=FLOODS[name].title, **look)
    if key == _SHARE:
        asked = scale * float(np.mean([each["free.asked"] for each in floods["hurry"].values()]))
        axes.axvline(asked, color="0.6", lw=1, ls="--", zorder=0)
        axes.text(asked, len(arms) - 0.55, "asked ", color="0.4", fontsize=8, ha="right")
    axes.set_yticks(range(len(arms)), list(arms))
    axes.set_ylim(len(arms) - 0.5, -0.5)
    faint_grid(axes)
