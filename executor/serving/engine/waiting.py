"""Requests that no step has begun with, by how urgent they are."""

from __future__ import annotations

from collections import defaultdict

from executor.serving.objectives import LEAST_URGENT, Urgency


class Waiting:
    """Queues as a server sees them: how long they are, and how long they take."""

    def __init__(self) -> None:
        self._since_s: dict[Urgency, dict[int, float]] = defaultdict(dict)
        """When each came, the earliest first."""
        self._waited_s: dict[Urgency, float] = {}
        """How long the latest that a step began with had waited."""

    def add(self, index: int, urgency: Urgency, now: float) -> None:
        """A request comes."""
        self._since_s[urgency][index] = now

    def begin(self, index: int, urgency: Urgency, now: float) -> None:
        """A step has it, and it waits no more."""
        self._waited_s[urgency] = now - self._since_s[urgency].pop(index)

    def drop(self, index: int, urgency: Urgency) -> None:
        """It is over, whether a step had it or not."""
        self._since_s[urgency].pop(index, None)

    def clear(self) -> None:
        """Nobody waits any more."""
        self._since_s.clear()

    def number(self, most: Urgency = LEAST_URGENT) -> int:
        """Of those that are as urgent or more so."""
        return sum(len(queue) for each, queue in self._since_s.items() if each <= most)

    def expected_s(self, urgency: Urgency, now: float) -> float:
        """How long one that is so urgent may wait: as long as the latest of its like or of the more
        urgent did, and where these have come to a standstill as long as the earliest of them does.
        """
        waited_s = [each_s for each, each_s in self._waited_s.items() if each <= urgency]
        queues = [queue for each, queue in self._since_s.items() if each <= urgency and queue]
        earliest_s = [next(iter(queue.values())) for queue in queues]
        return max(0.0, *waited_s, now - min(earliest_s, default=now))
