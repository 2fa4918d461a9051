"""Time stamps that are likely to mean something else than how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Final

CLOCK_MS: Final = 1e9
"""A first request after these eleven days has the time of a clock: s or ms since 1970."""
DENSE_MS: Final = 2.0
"""A mean gap below it is that of hundreds of requests/s, or of seconds that are read as ms."""
MANY: Final = 10
"""Fewer requests may well come in one burst."""
COARSE_MS: Final = 500.0
"""Stamps that lie further apart than this are those of a clock that counts seconds or more."""
PER_STAMP: Final = 2.0
"""So many requests on a stamp in the mean: fewer make hardly a burst."""
_LIKE: Final = 0.1
"""Share by which a gap differs that is one tick of the same clock."""


def stamp_warnings(file: str, stamps_ms: Sequence[float], time_unit: str) -> list[str]:
    """What is odd about the stamps of a trace, in ms and in order; `time_unit` is what they were
    read in. Requests that all come at once are no oddity.
    """
    if not stamps_ms:
        return []
    found, first_ms, span_ms = [], stamps_ms[0], stamps_ms[-1] - stamps_ms[0]
    if len(stamps_ms) >= MANY and 0 < span_ms / (len(stamps_ms) - 1) < DENSE_MS:
        unit = "; if they are in s: --time-unit s" if time_unit == "ms" else ""
        found.append(
            f"{file}: {len(stamps_ms):,} requests within {span_ms:g} ms, as timestamps are in "
            f"{time_unit}{unit}"
        )
    if first_ms >= CLOCK_MS:
        found.append(
            f"{file}: the first request comes at {first_ms / 1000:,.0f} s, as by a clock; a run "
            "counts --duration, run.window_s and its pictures from 0 (superinfer-sim traces "
            "from-log writes a trace that begins at 0)"
        )
    return found


def coarse_clock_warnings(file: str, stamps_ms: Sequence[float]) -> list[str]:
    """That requests come in bursts which no client sent, for the clock of the log ticks slowly; of
    stamps in ms and in order. Groups that were handed in together share stamps without ticks.
    """
    ticks = list(dict.fromkeys(stamps_ms))
    if len(ticks) < MANY or len(stamps_ms) < PER_STAMP * len(ticks):
        return []
    gaps_ms = [later - earlier for earlier, later in pairwise(ticks)]
    tick_ms = median(gaps_ms)
    regular = sum(abs(gap_ms - tick_ms) <= _LIKE * tick_ms for gap_ms in gaps_ms)
    if tick_ms < COARSE_MS or 2 * regular < len(gaps_ms):
        return []
    return [
        f"{file}: {len(stamps_ms):,} requests have {len(ticks):,} stamps, {tick_ms:g} ms apart, "
        "and those of one stamp come at once: --spread distributes them"
    ]
