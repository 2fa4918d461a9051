"""`lru`: the blocks that were used longest ago go first."""

from __future__ import annotations

from superinfer.memory.index.node import Node
from superinfer.memory.orders.base import Ranked, Surroundings
from superinfer.request import Request


class LruOrder(Ranked):
    """Least recently used first; of one request the deepest block first."""

    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__(_last_access)

    def retain(self, node: Node, request: Request) -> None:
        """The tree keeps the time of the last use."""


def _last_access(node: Node) -> tuple[float, ...]:
    return (node.last_access_s,)
