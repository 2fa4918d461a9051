"""The picture of a sensitivity study: a tornado plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superinfer.lab.pictures.canvas import save
from superinfer.outputs import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURES = ("tornado.png", "tornado.svg")
MOST_BARS = 20
"""Of the parts, those that move the difference most are drawn."""
FAR_ZERO = 1.5
"""Of the width of all bars: further away than that no difference is not drawn."""
_RED = "red: no difference"


@dataclass(frozen=True, slots=True)
class Bar:
    """One part: the difference with it faster (or shorter, calmer) and slower."""

    part: str
    faster: float | None
    slower: float | None
    survives: bool

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Bar:
        """Out of an entry of `parts` in `sensitivity.json`."""
        faster, slower = (entry[key]["difference"] for key in ("faster", "slower"))
        return cls(entry["part"], faster, slower, entry["survives"])


def write_tornado(outcome: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the picture as PNG and SVG; returns the paths."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    bars = [Bar.of(each) for each in outcome["parts"] if each["survives"] is not None][:MOST_BARS]
    figure = Figure(figsize=(9, 1.6 + 0.3 * max(len(bars), 3)), layout="constrained")
    tornado_panel(figure.subplots(), outcome, bars)
    paths = [folder / name for name in PICTURES]
    for path in paths:
        # Without a date and a random salt the same outcome gives the same bytes.
        metadata = {"Software": None} if path.suffix == ".png" else {"Date": None}
        with replacing(path) as staged, rc_context({"svg.hashsalt": "tornado"}):
            save(figure, staged, path.suffix[1:], 150, metadata)
    return paths


def tornado_panel(axes: Axes, outcome: Mapping[str, Any], bars: Sequence[Bar]) -> None:
    """A bar per part from one error to the other, around the difference as it is."""
    from superinfer.lab.pictures.parts import BLUE, GREY, ORANGE, RED, label

    base = outcome["base"]["difference"] or 0.0
    for row, bar in enumerate(bars):
        # Apart, because both may lie on the same side.
        ends = ((bar.faster, -0.19, BLUE, ""), (bar.slower, 0.19, ORANGE, "//"))
        for value, above, colour, hatch in ends:
            if value is not None:
                place = row + above
                axes.barh(place, value - base, left=base, height=0.36, color=colour, hatch=hatch)
    axes.axvline(base, color=GREY, linewidth=1)
    ends_at = [value for bar in bars for value in (bar.faster, bar.slower) if value is not None]
    zero = _zero_words(min([base, *ends_at]), max([base, *ends_at]))
    if zero == _RED:
        axes.axvline(0.0, color=RED, linewidth=1, linestyle="--")
    axes.set_yticks(
        range(len(bars)), [label(f"{b.part}{'' if b.survives else ' *'}") for b in bars]
    )
    axes.invert_yaxis()
    one, other = (label(name) for name in outcome["schedulers"])
    axes.set_xlabel(f"{label(outcome['metric'])}: {other} less {one} ({zero})")
    per_cent = f"{100 * outcome['by']:g} %"
    title = f"Simulated. {per_cent} less: blue; more: orange, hatched; *: the winner changes"
    axes.set_title(title, fontsize=10)


def _zero_words(low: float, high: float) -> str:
    """Where no difference is: it is left out where bars would be slivers beside it."""
    span = high - low
    if span > 0.0 and not low - FAR_ZERO * span <= 0.0 <= high + FAR_ZERO * span:
        return f"0, no difference, is far to the {'left' if low > 0.0 else 'right'}"
    return _RED
