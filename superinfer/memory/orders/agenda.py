"""Which leaves change their value when: a queue by time for many of which few are due at once.

A heap of all of them is deep, and each would go through it at every change. Here they wait unsorted
with those of the same second, and only the seconds that have come are a heap.
"""

from __future__ import annotations

import heapq
import math

from superinfer.heaps import FEWEST, heappop, heappush
from superinfer.memory.orders.worth import Standing


class Agenda:
    """Leaves by the second in which their values change (`lasts_s`). Nobody moves that while a leaf
    is here.
    """

    def __init__(self) -> None:
        self._seconds: dict[float, list[Standing]] = {}
        """Those of seconds to come."""
        self._coming: list[float] = []
        """These seconds, as a heap."""
        self._heap: list[tuple[float, int, Standing]] = []
        """Those of the seconds that have begun: when, turn, who."""
        self._begun = -math.inf
        """The latest second that has."""
        self._adds_left = FEWEST
        """Those that count no longer are looked for after so many more."""

    def add(self, standing: Standing) -> None:
        """Note one whose time is finite."""
        if not self._adds_left:
            self._forget()
        self._adds_left -= 1
        second = standing.lasts_s // 1.0
        if second <= self._begun:
            heappush(self._heap, (standing.lasts_s, standing.turn, standing))
            return
        waiting = self._seconds.get(second)
        if waiting is None:
            self._seconds[second] = [standing]
            heappush(self._coming, second)
        else:
            waiting.append(standing)

    def due(self, now: float) -> bool:
        """Whether anybody's time may have come."""
        heap, coming = self._heap, self._coming
        return bool(coming and coming[0] <= now) or bool(heap and heap[0][0] <= now)

    def take(self, now: float) -> list[Standing]:
        """Those whose time has come, in order, of equals the latest in turn first; they are
        forgotten here.
        """
        heap, coming = self._heap, self._coming
        while coming and coming[0] <= now:
            self._begun = second = heappop(coming)
            for standing in self._seconds.pop(second):
                heappush(heap, (standing.lasts_s, standing.turn, standing))
        found: list[Standing] = []
        while heap and heap[0][0] <= now:
            found.append(heappop(heap)[2])
        return found

    # -- inside ---------------------------------------------------------------------------------

    def _forget(self) -> None:
        """Drop those of nodes that are gone, or that others stand for: while nothing has to make
        room nobody asks who is due.
        """
        seconds: dict[float, list[Standing]] = {}
        kept = [entry for entry in self._heap if _counts(entry[2])]
        number = len(kept)
        for second, waiting in self._seconds.items():
            some = [standing for standing in waiting if _counts(standing)]
            if some:
                seconds[second] = some
                number += len(some)
        self._seconds, self._coming, self._heap = seconds, list(seconds), kept
        heapq.heapify(self._coming)
        heapq.heapify(self._heap)
        self._adds_left = max(FEWEST, number)


def _counts(standing: Standing) -> bool:
    return not standing.replaced and standing.node.parent is not None
