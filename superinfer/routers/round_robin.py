"""Router `round_robin`: one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from superinfer.request import Request
from superinfer.routers.view import ReplicaView


@dataclass
class RoundRobinRouter:
    """Every replica gets the same number of requests, whatever they are."""

    name: str = field(default="round_robin", init=False)
    _replicas: int = field(default=0, init=False, repr=False)
    _next: int = field(default=0, init=False, repr=False)

    def bind(self, replicas: Sequence[ReplicaView]) -> None:
        """Learn how many there are."""
        self._replicas = len(replicas)

    def route(self, request: Request, now: float) -> int:
        """The one whose turn it is."""
        chosen = self._next
        self._next = (chosen + 1) % self._replicas
        return chosen
