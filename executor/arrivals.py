"""Requests on their way to an engine."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Protocol

from superinfer.engine import Engine
from superinfer.request import Request


class Traffic(Protocol):
    """What clients want of an engine."""

    @property
    def next_s(self) -> float:
        """When the next request comes; infinity if that is not known, or none does."""

    def tell(self, engine: Engine, now: float) -> bool:
        """Tell the engine of all that came by now; False if nothing did."""
        ...


class Arrivals:
    """Requests that come at their own times (sorted)."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._coming = iter(requests)
        self._next = next(self._coming, None)

    @property
    def next_s(self) -> float:
        """When the next one comes; infinity if none does."""
        return inf if self._next is None else self._next.arrival_s

    def tell(self, engine: Engine, now: float) -> bool:
        """Submit those that have come by now, each at its time; False if none has."""
        came = self.next_s <= now
        while self._next is not None and self._next.arrival_s <= now:
            engine.submit(self._next, self._next.arrival_s)
            self._next = next(self._coming, None)
        return came
