"""The picture of the dial: three goals as two axes and a colour, the front ringed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.scenarios.measures import ATTAINMENT, BATCH
from experiments.studykit.pictures import faint_grid, footnote, write_png

PICTURE = "dial.png"


def write_picture(summary: Mapping[str, Any], folder: Path) -> None:
    """Write the picture; the corners of the dial are named."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 5.4), layout="constrained")
    axes = figure.subplots()
    points = sorted(summary["points"], key=lambda point: point["front"])
    x = [point["numbers"][BATCH]["mean"] for point in points]
    y = [100 * point["numbers"][ATTAINMENT]["mean"] for point in points]
    bits = [point["numbers"]["kv_bits_mean"]["mean"] for point in points]
    rings = ["black" if point["front"] else "0.85" for point in points]
    drawn = axes.scatter(
        x, y, c=bits, edgecolors=rings, cmap="viridis", vmin=4, vmax=16, s=90, linewidths=1.8
    )
    for point, at in zip(points, zip(x, y, strict=True), strict=True):
        corner = [name for name, weight in point["weights"].items() if weight == 1]
        if corner:
            axes.annotate(corner[0], at, xytext=(8, 6), textcoords="offset points", fontsize=9)
    figure.colorbar(drawn, label="mean bits of a cached value")
    axes.set_xlabel("batch output (tokens/s)")
    axes.set_ylabel("chat attainment (%)")
    faint_grid(axes)
    axes.set_axisbelow(True)
    footnote(
        figure,
        "Simulated, Llama-3.1-70B on four A100-80G. Ringed in black: on the front of all three.",
    )
    write_png(figure, folder / PICTURE)
