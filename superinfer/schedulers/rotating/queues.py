"""Where requests wait that are off the device: by level and deadline, or by tenant.

Heaps hold stale entries; a job's ticket says which one is its own. Whoever comes in, is queued
again or ends gets another ticket, so a job whose ticket an entry has still waits.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from math import inf
from typing import Any, Final

from superinfer.heaps import FEWEST, GrowingKeys, sweep
from superinfer.schedulers.rotating.deadlines import TURNS, Job
from superinfer.schedulers.rotating.tenants import TenantCounters

LEVELS: Final = 4

_Entry = tuple[float, float, int, Job]


class LaxityQueues:
    """Jobs with a latest start, in four levels; inside one by slack over weight.

    The order of two jobs of one weight never changes with time, so each weight has a heap of its
    own and only the heads are compared.
    """

    def __init__(self) -> None:
        self._heaps: list[dict[float, list[_Entry]]] = [{} for _ in range(LEVELS)]
        self._entries = 0
        self._most = FEWEST
        """With more entries than this, stale ones are looked for."""

    def push(self, job: Job) -> None:
        """Queue by the job's level, latest start and weight."""
        if self._entries > self._most:
            self._entries = _forget_stale(self._heaps)
            self._most = max(FEWEST, 2 * self._entries)
        heap = self._heaps[job.level].setdefault(job.weight, [])
        heapq.heappush(heap, (job.start_by_s, job.seq.request.index, job.ticket, job))
        self._entries += 1

    def pop(self, job: Job) -> None:
        """Take out the head."""
        heapq.heappop(self._heaps[job.level][job.weight])
        self._entries -= 1

    def head(self, now: float) -> Job | None:
        """The job whose turn it is."""
        heads = self._heads()
        return min(heads, key=lambda entry: _urgency(entry, now))[3] if heads else None

    def next_turn_s(self, now: float) -> float:
        """When the turn passes to a job of another weight, if nobody comes or goes until then."""
        heads = self._heads()
        if len(heads) < 2:
            return inf
        first = min(heads, key=lambda entry: _urgency(entry, now))
        others = [entry for entry in heads if entry[3].weight != first[3].weight]
        return min(_overtakes_s(first, other, now) for other in others)

    def _heads(self) -> list[_Entry]:
        """The first job of each weight, at the highest level where there is any."""
        if not self._entries:
            return []
        for heaps in self._heaps:
            heads = [heap[0] for heap in heaps.values() if self._tidy(heap)]
            if heads:
                return heads
        return []

    def _tidy(self, heap: list[_Entry]) -> bool:
        """True if the heap has a head, once stale entries are gone."""
        before = len(heap)
        found = _current(heap)
        self._entries -= before - len(heap)
        return found


class TenantQueues:
    """Jobs without a latest start: by turn (`Job.turn`), then tenants by the service they got, then
    by arrival, also between tenants that got as much; late prompts shortest first, since nobody's
    deadline depends on their order and so the fewest of them wait behind a long one. Age brings in
    the long ones (aging.py).
    """

    def __init__(self, counters: TenantCounters, fair: bool) -> None:
        self._counters = counters
        self._fair = fair
        self._heaps: tuple[dict[str, list[_Entry]], ...] = tuple({} for _ in range(TURNS))
        self._least_served = tuple(GrowingKeys() for _ in range(TURNS))
        """The tenants of each turn by what `_place` says."""
        for keys in self._least_served:
            counters.follow(keys)
        self._pushes_left = FEWEST
        """Stale entries are looked for after so many more."""

    def push(self, job: Job) -> None:
        """Queue at the tenant's."""
        if not self._pushes_left:
            self._pushes_left = max(FEWEST, _forget_stale(self._heaps))
        self._pushes_left -= 1
        request = job.seq.request
        heaps = self._heaps[job.turn]
        tenant = request.tenant if self._fair else ""
        heap = heaps.setdefault(tenant, [])
        self._least_served[job.turn].touch(tenant)
        place = request.arrival_s if job.turn else float(job.tokens_to_compute)
        heapq.heappush(heap, (place, request.index, job.ticket, job))

    def head(self, step: int, first_turn: int = 0, stop_turn: int = TURNS) -> Job | None:
        """The job whose turn it is at a step of the decode batch, of some turns or of all."""
        for turn in range(first_turn, stop_turn):
            if self._heaps[turn] and (found := self._head_of(turn, step)) is not None:
                return found
        return None

    @property
    def contested(self) -> bool:
        """True if it may depend on the tenants' service who comes first."""
        return any(_several(heaps) for heaps in self._heaps)

    def _head_of(self, turn: int, step: int) -> Job | None:
        heaps = self._heaps[turn]
        if _several(heaps):
            first = self._least_served[turn].lowest(lambda name: self._place(heaps, name, step))
            return heaps[first[1]][0][3] if first is not None else None
        for heap in heaps.values():  # nobody to compare with
            return heap[0][3]
        return None

    def _place(
        self, heaps: dict[str, list[_Entry]], tenant: str, step: int
    ) -> tuple[float, float, float] | None:
        """Where a tenant stands with its first job; None if it has none."""
        heap = heaps.get(tenant)
        if heap is None or not _current(heap):
            heaps.pop(tenant, None)
            return None
        place, index, _, _ = heap[0]
        return self._counters.service(tenant, step), place, index


class Alarms:
    """Jobs by the time at which something happens to them if they still wait."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Job]] = []

    def set(self, time_s: float, job: Job) -> None:
        """Wake for the job at a time, unless its ticket has changed."""
        if time_s < inf:
            heapq.heappush(self._heap, (time_s, job.ticket, job))

    def due(self, now: float) -> Job | None:
        """Take out the next job whose time has come."""
        while self._heap and self._heap[0][0] <= now:
            _, ticket, job = heapq.heappop(self._heap)
            if ticket == job.ticket:
                return job
        return None

    def next_s(self) -> float:
        """The next time at which a job is due."""
        heap = self._heap
        while heap and heap[0][1] != heap[0][2].ticket:
            heapq.heappop(heap)
        return heap[0][0] if heap else inf


def _several(heaps: dict[str, list[_Entry]]) -> bool:
    """True if more than one tenant has a job; those met on the way that have none are forgotten."""
    idle: list[str] = []
    found = 0
    for tenant, heap in heaps.items():
        if not _current(heap):
            idle.append(tenant)
            continue
        found += 1
        if found > 1:
            break
    for tenant in idle:
        del heaps[tenant]
    return found > 1


def _forget_stale(queues: Iterable[Mapping[Any, list[_Entry]]]) -> int:
    """Drop entries whose ticket is not the job's any more: behind the head of their heap, or at a
    level or turn that nobody gets to, they would stay. Returns how many are left.
    """
    left = 0
    for heaps in queues:
        for heap in heaps.values():
            sweep(heap, _is_own)
            left += len(heap)
    return left


def _is_own(entry: _Entry) -> bool:
    return entry[2] == entry[3].ticket


def _current(heap: list[_Entry]) -> bool:
    """True if the heap has a head; entries that do not hold any more are dropped first."""
    while heap and not _is_own(heap[0]):
        heapq.heappop(heap)
    return bool(heap)


def _urgency(entry: _Entry, now: float) -> tuple[float, float, int]:
    """Slack over weight; who is late already is later by its weight."""
    start_by_s, index, ticket, job = entry
    slack_s = start_by_s - now
    return (slack_s / job.weight if slack_s > 0 else slack_s * job.weight, index, ticket)


def _overtakes_s(first: _Entry, other: _Entry, now: float) -> float:
    """When `other` becomes more urgent than `first`; inf if it never does.

    Urgencies are straight lines until the latest start and from there on, all of them 0 there, so
    two cross once before either is late or once when both are.
    """
    start_s, weight = first[0], first[3].weight
    rival_s, rival = other[0], other[3].weight
    before_s = (rival_s * weight - start_s * rival) / (weight - rival)
    after_s = (rival_s * rival - start_s * weight) / (rival - weight)
    both = (before_s if before_s <= start_s else inf, after_s if after_s >= start_s else inf)
    return min((time_s for time_s in both if time_s > now), default=inf)
