"""`lfu`: the blocks that were used least often go first."""

from __future__ import annotations

from superinfer.memory.index.keys import request_keys
from superinfer.memory.index.node import Node
from superinfer.memory.orders.base import NAMES, RankedBlocks, Surroundings, last_entry
from superinfer.memory.orders.remembered import Remembered
from superinfer.request import Request


class LfuOrder(RankedBlocks):
    """Fewest uses first, of equals the least recently used. The uses of evicted blocks count, too;
    without them every block but the hottest begins at one again and again. Those of blocks that
    have not been used for very long are forgotten (`NAMES`).
    """

    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__(self._rank, surroundings.block_tokens)
        self._counts: Remembered[int] = Remembered(NAMES)

    def entries(self, request: Request) -> list[int]:
        """Uses of each block, this one included."""
        names = [(request.namespace, key) for key in request_keys(request)]
        return [self._counted(name) for name in names]

    def _counted(self, name: object) -> int:
        count = (self._counts.get(name) or 0) + 1
        self._counts.put(name, count)
        return count

    def _rank(self, node: Node) -> tuple[float, ...]:
        return (last_entry(node, self._block_tokens), node.last_access_s)
