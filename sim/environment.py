"""A SimPy environment that can be told an absolute time."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappush
from math import inf

from simpy import Environment, Event
from simpy.events import NORMAL, EventPriority


class ExactEnvironment(Environment):
    """SimPy takes delays, and `now + (t - now)` need not be `t`. Step ends, arrivals and landings
    must be compared exactly, so events are put on SimPy's own heap by their absolute time.
    """

    def next_event_s(self) -> float:
        """When the next event happens; inf if there is none. SimPy's `peek`, compiled."""
        queue = self._queue
        return queue[0][0] if queue else inf

    def skip_to(self, time_s: float) -> bool:
        """Let time pass without an event; False if anything happens until then (or just then)."""
        if self._queue and self._queue[0][0] <= time_s:
            return False
        self._now = time_s
        return True

    def at(self, time_s: float, priority: EventPriority = NORMAL) -> Event:
        """An event that happens at `time_s` (not before now)."""
        event = Event(self)
        event._ok, event._value = True, None
        when_s = time_s if time_s > self._now else self._now
        heappush(self._queue, (when_s, priority, next(self._eid), event))
        return event

    def call_at(self, time_s: float, priority: EventPriority, call: Callable[[], None]) -> None:
        """Let `call` be made at `time_s` (not before now)."""
        event = self.at(time_s, priority)
        assert event.callbacks is not None
        event.callbacks.append(lambda _: call())
