"""What `superinfer-sim cache-study --json` printed, as a frame and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from superinfer.errors import ConfigError
from superinfer.lab.json_files import read_json
from superinfer.lab.other_folders import path_of
from superinfer.lab.pictures.canvas import given_or_new, with_legend
from superinfer.lab.studies.cache_study import BOUND, FLOOR

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_LABELS = {
    "hit_rate": "share of prompt blocks that were cached",
    "gap_closed": f"share of the way from {FLOOR} to {BOUND}",
    "prefill_seconds_saved": "seconds of prefill saved",
}


def load_cache_study(path: Path | str) -> pd.DataFrame:
    """A row per policy and capacity: `policy`, `capacity_blocks`, `hit_rate` (0 to 1),
    `gap_closed` (share of the way from `lru` to `belady`; NaN where these are equal) and
    `prefill_seconds_saved`.

    `attrs` holds the trace, its `block_tokens` and how many requests and blocks are counted. Raises
    InputError for a file that is not what `cache-study --json` prints.
    """
    import pandas as pd

    def framed(found: Any) -> pd.DataFrame:
        frame = pd.DataFrame(found.pop("results"))[["policy", "capacity_blocks", *_LABELS]]
        frame.attrs = found
        return frame

    frame = read_json(path_of(path, "a cache study"), framed, "what `cache-study --json` prints")
    frame["gap_closed"] = frame["gap_closed"].astype(float)
    return frame


def plot_cache_study(
    frame: pd.DataFrame, column: str = "hit_rate", *, axes: Axes | None = None, legend: bool = True
) -> Axes:
    """A column of `load_cache_study` over the capacity in blocks, a line per policy.

    `lru` is the grey line, and `belady`, which knows the future and bounds all others, the black
    one. Raises ConfigError for another column than `hit_rate`, `gap_closed` and
    `prefill_seconds_saved`.
    """
    from superinfer.lab.pictures.parts import label

    if column not in _LABELS:
        raise ConfigError(f"column: expected one of {', '.join(_LABELS)}, got {column!r}")
    axes = given_or_new(axes)
    others = [name for name in dict.fromkeys(frame["policy"]) if name not in (FLOOR, BOUND)]
    for name, rows in frame.groupby("policy", sort=False):
        line = rows.sort_values("capacity_blocks")
        look = _look(str(name), others)
        axes.plot(line["capacity_blocks"], line[column], label=label(str(name)), **look)
    _finish(axes, frame, column)
    return with_legend(axes, legend)


def _look(name: str, others: list[str]) -> dict[str, Any]:
    from superinfer.lab.pictures.parts import GREY, line_look

    fixed = {FLOOR: {"color": GREY, "ls": "-"}, BOUND: {"color": "black", "ls": ":"}}
    look = fixed.get(name) or line_look(others.index(name))
    return {"marker": ".", "lw": 1.5, **look}


def _finish(axes: Axes, frame: pd.DataFrame, column: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

    from superinfer.lab.pictures.parts import label

    axes.set_xscale("log")
    capacities = sorted(set(frame["capacity_blocks"]))
    axes.set_xticks(capacities)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    trace = Path(str(frame.attrs.get("trace", ""))).name
    axes.set_title(f"Cache study: {label(trace)}" if trace else "Cache study", fontsize="medium")
    tokens = frame.attrs.get("block_tokens")
    axes.set_xlabel("capacity (blocks" + (f" of {tokens} tokens)" if tokens else ")"))
    axes.set_ylabel(_LABELS[column])
    if column != "prefill_seconds_saved":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if column != "gap_closed":
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
