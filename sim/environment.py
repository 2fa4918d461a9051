"""A SimPy environment that can be told an absolute time."""

from __future__ import annotations

from heapq import heappush

from simpy import Environment, Event
from simpy.events import NORMAL, EventPriority


class ExactEnvironment(Environment):
    """SimPy takes delays, and `now + (t - now)` need not be `t`. Step ends, arrivals and landings
    must be compared exactly, so events are put on SimPy's own heap by their absolute time.
    """

    def at(self, time_s: float, priority: EventPriority = NORMAL) -> Event:
        """An event that happens at `time_s` (not before now)."""
        event = Event(self)
        event._ok, event._value = True, None
        when_s = time_s if time_s > self._now else self._now
        heappush(self._queue, (when_s, priority, next(self._eid), event))
        return event
