"""Whether a measured window goes on when nobody comes any more, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from superinfer.records.run import Floats

_MUCH: Final = 0.05
"""Share of the window that may lie behind the last arrival: a gap between two requests."""


def window_warning(window_s: Sequence[float] | None, arrival_s: Floats) -> str:
    """One line if a good part of `window_s` (from, to) lies behind the last arrival; else empty.

    Rates of a window divide by its length, and what is left of a queue is served in that part: such
    as when a trace is sent faster (`run.rate_scale`), which makes it shorter.
    """
    if not window_s or not arrival_s.size:
        return ""
    start_s, end_s = window_s
    last_s = float(arrival_s.max())
    if last_s <= start_s or end_s - last_s <= _MUCH * (end_s - start_s):
        return ""
    return (
        f"run.window_s goes to {end_s:g} s, and the last request arrives at {last_s:,.0f} s: rates "
        "and goodput are of a load that ends inside"
    )
