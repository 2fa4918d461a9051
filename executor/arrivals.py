"""Requests on their way to a driver."""

from __future__ import annotations

import queue
from collections.abc import Iterable
from math import inf
from typing import Protocol

from superinfer.request import Request


class Arrivals(Protocol):
    """Where requests come from."""

    @property
    def next_s(self) -> float:
        """When the next request comes, as far as that is known; infinity if none does."""
        ...

    def take(self, now: float) -> list[tuple[Request, float]]:
        """Those that have come by now, each with its time."""
        ...


class TimedArrivals:
    """Requests that come at their own times (sorted)."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._coming = iter(requests)
        self._next = next(self._coming, None)

    @property
    def next_s(self) -> float:
        """When the next one comes."""
        return inf if self._next is None else self._next.arrival_s

    def take(self, now: float) -> list[tuple[Request, float]]:
        """Those that have come by now."""
        taken = []
        while self._next is not None and self._next.arrival_s <= now:
            taken.append((self._next, self._next.arrival_s))
            self._next = next(self._coming, None)
        return taken


class LiveArrivals:
    """Requests that other threads put in; each comes when it is seen."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Request] = queue.SimpleQueue()

    def put(self, request: Request) -> None:
        """A request comes."""
        self._queue.put(request)

    @property
    def next_s(self) -> float:
        """0 if one waits to be taken."""
        return inf if self._queue.empty() else 0.0

    def take(self, now: float) -> list[tuple[Request, float]]:
        """Those that are there; one whose time is set keeps it."""
        taken = []
        while not self._queue.empty():
            request = self._queue.get_nowait()
            taken.append((request, min(now, request.arrival_s)))
        return taken
