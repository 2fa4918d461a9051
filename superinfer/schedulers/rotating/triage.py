"""Whom to give up so that as many as possible are in time.

Moore, "An n job, one machine sequencing algorithm for minimizing the number of late jobs"
(Management Science 15(1), 1968): in order of deadlines, whenever a job would be late, the longest
of those taken so far is given up. No other choice leaves fewer jobs late.

Where some weigh more than others, those go first that would be late even alone, then those that
take most time for their weight. To leave the least weight late is NP-hard (Karp, "Reducibility
among combinatorial problems", 1972, asks it of jobs that are due at once); this comes near it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

_T = TypeVar("_T")
_Taken = tuple[float, int, float]
"""Work over weight, negative; place; work."""


class Work(NamedTuple):
    """One job of a single machine, in seconds or in tokens."""

    due: float
    """When it has to be done, from now: after so much work."""
    work: float
    fixed: bool
    """True if it is under way and cannot be given up."""
    weight: float = 1.0


def given_up(jobs: Iterable[tuple[Work, _T]]) -> list[_T]:
    """Who is given up, of jobs in order of their deadlines; those under way never are. One that is
    late by itself goes at once: nobody else would save it.
    """
    taken: list[_Taken] = []
    names: list[_T] = []
    dropped, done = [], 0.0
    for work, name in jobs:
        if work.work > work.due and not work.fixed:
            dropped.append(name)
            continue
        done += work.work
        names.append(name)
        if not work.fixed:
            heapq.heappush(taken, (-work.work / work.weight, len(names) - 1, work.work))
        if done > work.due and taken:
            for _, place, less in _dearest(taken, done - work.due):
                done -= less
                dropped.append(names[place])
    return dropped


def _dearest(taken: list[_Taken], too_much: float) -> list[_Taken]:
    """Take out who takes most for its weight, one after the other, until that is enough or as much
    as the longest of them takes.
    """
    enough, found = min(too_much, max([work for _, _, work in taken])), []
    while enough > 0:
        found.append(heapq.heappop(taken))
        enough -= found[-1][2]
    return found
