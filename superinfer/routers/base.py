"""The router protocol: which replica takes a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from superinfer.request import Request
from superinfer.routers.view import ReplicaView


class Router(Protocol):
    """Sends each request to one replica, for good, at the moment it arrives.

    Its constructor dataclass is the `[router]` section of a config, and raises ConfigError for
    settings without a meaning. It sees replicas through their
    views alone, and never how long an answer will be.
    """

    name: str

    def bind(self, replicas: Sequence[ReplicaView]) -> None:
        """Learn the replicas, once, before anything else."""
        ...

    def route(self, request: Request, now: float) -> int:
        """The number of the replica that takes the request, from 0."""
        ...
