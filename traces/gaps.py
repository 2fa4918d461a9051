"""Burstier or calmer arrivals out of those of a trace."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from superinfer.request import Request


def scale_gaps(requests: Sequence[Request], by: float) -> None:
    """Move every gap between arrivals `by` times as far from their mean, but not below zero.

    The order, the first and the last arrival stay. 0 makes all gaps equal, 1 changes nothing.
    """
    times_s = [request.arrival_s for request in requests]
    if by == 1.0 or len(times_s) < 2 or times_s[-1] == times_s[0]:
        return
    span_s = times_s[-1] - times_s[0]
    mean_s = span_s / (len(times_s) - 1)
    gaps_s = [max(0.0, mean_s + by * (end - start - mean_s)) for start, end in pairwise(times_s)]
    longer = span_s / sum(gaps_s)
    now_s = times_s[0]
    for request, gap_s in zip(requests[1:], gaps_s, strict=True):
        now_s += longer * gap_s
        request.arrival_s = now_s
