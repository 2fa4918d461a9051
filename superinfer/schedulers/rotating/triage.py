"""Whom to give up so that as many as possible are in time.

Moore, "An n job, one machine sequencing algorithm for minimizing the number of late jobs"
(Management Science 15(1), 1968): in order of deadlines, whenever a job would be late, the longest
of those taken so far is given up. No other choice leaves fewer jobs late.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

_T = TypeVar("_T")


class Work(NamedTuple):
    """One job of a single machine, in seconds or in tokens."""

    due: float
    """When it has to be done, from now: after so much work."""
    work: float
    fixed: bool
    """True if it is under way and cannot be given up."""


def given_up(jobs: Iterable[tuple[Work, _T]]) -> list[_T]:
    """Who is given up, of jobs in order of their deadlines; those under way never are."""
    longest: list[tuple[float, int]] = []
    names: list[_T] = []
    dropped, done = [], 0.0
    for work, name in jobs:
        done += work.work
        names.append(name)
        if not work.fixed:
            heapq.heappush(longest, (-work.work, len(names) - 1))
        if done > work.due and longest:
            less, place = heapq.heappop(longest)
            done += less
            dropped.append(names[place])
    return dropped
