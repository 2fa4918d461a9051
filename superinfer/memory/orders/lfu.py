"""`lfu`: the blocks that were used least often since they came go first."""

from __future__ import annotations

from superinfer.memory.orders.base import Ranked, Surroundings
from superinfer.memory.prefix import Node
from superinfer.request import Request


class LfuOrder(Ranked):
    """Fewest uses first, of equals the least recently used. An evicted block's count is lost."""

    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__(_uses)

    def retain(self, node: Node, request: Request) -> None:
        """One use more."""
        node.note = 1 if node.note is None else node.note + 1


def _uses(node: Node) -> tuple[float, ...]:
    return (node.note, node.last_access_s)
