"""Requests on their way to a driver."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from superinfer.request import Request


class Arrivals:
    """Requests that come at their own times (sorted)."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._coming = iter(requests)
        self._next = next(self._coming, None)

    @property
    def next_s(self) -> float:
        """When the next one comes; infinity if none does."""
        return inf if self._next is None else self._next.arrival_s

    def take(self, now: float) -> list[tuple[Request, float]]:
        """Those that have come by now, each with its time."""
        taken = []
        while self._next is not None and self._next.arrival_s <= now:
            taken.append((self._next, self._next.arrival_s))
            self._next = next(self._coming, None)
        return taken
