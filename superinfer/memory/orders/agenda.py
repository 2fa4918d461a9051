"""What falls due when: a queue by time for many entries of which few are due at once.

A heap of all of them is deep, and every entry goes through it. Here an entry waits unsorted with
those of the same second, and only the second that has come is a heap.
"""

from __future__ import annotations

import heapq
import math

from superinfer.memory.orders.worth import Standing

Due = tuple[float, int, int, Standing]
"""When; a number that breaks ties, the lower one first; the bin of age that ends then; of whom."""


class Agenda:
    """Entries by the second in which they fall due."""

    def __init__(self) -> None:
        self._seconds: dict[float, list[Due]] = {}
        """Entries of seconds to come."""
        self._coming: list[float] = []
        """These seconds, as a heap."""
        self._heap: list[Due] = []
        """Entries of the seconds that have begun."""
        self._begun = -math.inf
        """The latest second that has."""

    def add(self, entry: Due) -> None:
        """Note what falls due at a finite time."""
        second = entry[0] // 1.0
        if second <= self._begun:
            heapq.heappush(self._heap, entry)
            return
        waiting = self._seconds.get(second)
        if waiting is None:
            self._seconds[second] = [entry]
            heapq.heappush(self._coming, second)
        else:
            waiting.append(entry)

    def take(self, now: float) -> list[Due]:
        """What is due by now, in order; it is forgotten here."""
        heap, coming = self._heap, self._coming
        if coming and coming[0] <= now:
            while coming and coming[0] <= now:
                self._begun = second = heapq.heappop(coming)
                heap += self._seconds.pop(second)
            heapq.heapify(heap)
        found: list[Due] = []
        while heap and heap[0][0] <= now:
            found.append(heapq.heappop(heap))
        return found
