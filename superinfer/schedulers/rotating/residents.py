"""Decoding requests in the order in which they could give up their place."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from math import inf
from typing import Final

from superinfer.schedulers.rotating.deadlines import Job
from superinfer.schedulers.rotating.queues import LEVELS

LOOKED_AT: Final = 64
"""Candidates of one group that are looked at before it is passed over: more than have come in
lately, who may not leave yet and are the last of those that are owed nothing."""

_Key = tuple[float, float]
_Entry = tuple[float, int, Job]


class Residents:
    """Jobs by level, and inside a level by what they are owed next.

    All jobs of a group get a token in every step and are owed one every `pace_s`, so their order
    stays as it was when they joined: the one with the most credit is the last.
    """

    def __init__(self) -> None:
        self._groups: list[dict[_Key, list[_Entry]]] = [{} for _ in range(LEVELS)]
        self._paces_s: list[float] = []

    def __iter__(self) -> Iterator[Job]:
        for groups in self._groups:
            for group in groups.values():
                yield from (job for _, _, job in group)

    @property
    def paced(self) -> bool:
        """True if somebody here is owed a pace."""
        return bool(self._paces_s)

    def paces_s(self) -> list[float]:
        """The times per token that are owed to somebody here, each once, the shortest first."""
        paces_s, place = self._paces_s, 0
        found: list[float] = []
        while place < len(paces_s):
            found.append(paces_s[place])
            place = bisect_right(paces_s, paces_s[place], place)
        return found

    def add(self, job: Job) -> None:
        """A job decodes from now on."""
        _insert(self._group(job), job)
        if job.pace_s < inf:
            insort(self._paces_s, job.pace_s)

    def remove(self, job: Job) -> None:
        """A job decodes no longer."""
        self._take_out(job)
        if job.pace_s < inf:
            del self._paces_s[bisect_left(self._paces_s, job.pace_s)]

    def demote(self, job: Job) -> None:
        """Move a job one level down."""
        self._take_out(job)
        job.level += 1
        _insert(self._group(job), job)

    def most_slack(
        self, slack_s: Callable[[Job], float], eligible: Callable[[Job, float], bool]
    ) -> Job | None:
        """The eligible job of the lowest priority level that has most slack."""
        for groups in reversed(self._groups):
            found = [pick for group in groups.values() if (pick := _last(group, slack_s, eligible))]
            if found:
                return max(found, key=lambda pick: pick[:2])[2]
        return None

    def _take_out(self, job: Job) -> None:
        """Out of its group, which goes with its last job: clients may name any pace."""
        groups, key = self._groups[job.level], (job.pace_s, job.stall_s)
        group = groups[key]
        del group[_place(group, job)]
        if not group:
            del groups[key]

    def _group(self, job: Job) -> list[_Entry]:
        return self._groups[job.level].setdefault((job.pace_s, job.stall_s), [])


def _insert(group: list[_Entry], job: Job) -> None:
    group.insert(_place(group, job), (job.base_s, job.seq.request.index, job))


def _place(group: list[_Entry], job: Job) -> int:
    """Where a job is, or belongs, in its group: a bisection that is compiled."""
    base_s, index = job.base_s, job.seq.request.index
    low, high = 0, len(group)
    while low < high:
        middle = (low + high) >> 1
        other_s, other, _ = group[middle]
        if other_s < base_s or (other_s == base_s and other < index):
            low = middle + 1
        else:
            high = middle
    return low


def _last(
    group: list[_Entry], slack_s: Callable[[Job], float], eligible: Callable[[Job, float], bool]
) -> tuple[float, float, Job] | None:
    for base_s, _, job in group[: -LOOKED_AT - 1 : -1]:
        slack = slack_s(job)
        if eligible(job, slack):
            return slack, base_s, job
    return None
