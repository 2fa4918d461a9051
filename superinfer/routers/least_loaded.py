"""Router `least_loaded`: to the replica with the fewest outstanding tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from superinfer.request import Request
from superinfer.routers.view import ReplicaView


@dataclass
class LeastLoadedRouter:
    """Outstanding are the prompts of requests without a first token and the answers of all requests
    under way, these as long as answers of their tenant and class have been. Of equals the first is
    taken.
    """

    name: str = field(default="least_loaded", init=False)
    _replicas: Sequence[ReplicaView] = field(default=(), init=False, repr=False)

    def bind(self, replicas: Sequence[ReplicaView]) -> None:
        """Learn the replicas."""
        self._replicas = replicas

    def route(self, request: Request, now: float) -> int:
        """The one with the fewest."""
        return min(self._replicas, key=outstanding).index


def outstanding(replica: ReplicaView) -> int:
    """Outstanding tokens of a replica."""
    return replica.outstanding_tokens
