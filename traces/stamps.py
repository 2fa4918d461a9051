"""The time stamps of a trace: their order, how they are spread, and what is odd about them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
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
    tick_ms = _median(gaps_ms)
    regular = sum(abs(gap_ms - tick_ms) <= _LIKE * tick_ms for gap_ms in gaps_ms)
    if tick_ms < COARSE_MS or 2 * regular < len(gaps_ms):
        return []
    return [
        f"{file}: {len(stamps_ms):,} requests have {len(ticks):,} stamps, {tick_ms:g} ms apart, "
        "and those of one stamp come at once: run and traces convert distribute them (--spread)"
    ]


def longest_ordered(stamps: list[float]) -> list[int]:
    """Positions of the most stamps that do not decrease; of equal choices, the earlier ones.

    One wild stamp then costs one record, wherever it stands.
    """
    tails: list[float] = []
    tail_positions: list[int] = []
    following = [-1] * len(stamps)
    for position in range(len(stamps) - 1, -1, -1):
        length = bisect_right(tails, -stamps[position])
        following[position] = tail_positions[length - 1] if length else -1
        tails[length : length + 1] = [-stamps[position]]
        tail_positions[length : length + 1] = [position]
    kept = [tail_positions[-1]]
    while following[kept[-1]] >= 0:
        kept.append(following[kept[-1]])
    return kept


def spread_stamps(stamps: list[float]) -> list[float]:
    """Requests of one stamp placed evenly until the next stamp, the last by the median gap."""
    starts = [i for i, stamp in enumerate(stamps) if i == 0 or stamp != stamps[i - 1]]
    distinct = [stamps[i] for i in starts]
    gaps = [b - a for a, b in pairwise(distinct)]
    gaps.append(_median(gaps))
    ends = [*starts[1:], len(stamps)]
    return [
        stamp + gap * k / (end - start)
        for start, end, stamp, gap in zip(starts, ends, distinct, gaps, strict=True)
        for k in range(end - start)
    ]


def _median(values: list[float]) -> float:
    """The median; 0 of nothing (the module `statistics` is slow to import)."""
    middle = sorted(values)[(len(values) - 1) // 2 : len(values) // 2 + 1]
    return sum(middle) / len(middle) if middle else 0.0
