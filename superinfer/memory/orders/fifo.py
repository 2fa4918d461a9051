"""`fifo`: the blocks that came first go first, however often they were used since."""

from __future__ import annotations

from superinfer.memory.index.node import Node
from superinfer.memory.orders.base import Ranked, Surroundings
from superinfer.request import Request


class FifoOrder(Ranked):
    """Order of arrival; a prefix can only go after all that continues it."""

    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__(_turn)
        self._request: Request | None = None
        self._turn = 0

    def retain(self, node: Node, request: Request) -> None:
        """A node keeps the turn of the request that brought it."""
        if request is not self._request:
            self._request = request
            self._turn += 1
        if node.note is None:
            node.note = self._turn


def _turn(node: Node) -> tuple[float, ...]:
    return (node.note,)
