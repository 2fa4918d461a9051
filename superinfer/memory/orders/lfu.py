"""`lfu`: the blocks that were used least often go first."""

from __future__ import annotations

from superinfer.memory.index.keys import request_keys
from superinfer.memory.index.node import Node
from superinfer.memory.orders.base import RankedBlocks, Surroundings, last_entry
from superinfer.request import Request


class LfuOrder(RankedBlocks):
    """Fewest uses first, of equals the least recently used. The uses of evicted blocks count, too;
    without them every block but the hottest begins at one again and again.
    """

    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__(self._rank, surroundings.block_tokens)
        self._uses: dict[object, int] = {}

    def entries(self, request: Request) -> list[int]:
        """Uses of each block, this one included."""
        uses, space, counts = self._uses, request.namespace, []
        for key in request_keys(request):
            count = uses[space, key] = uses.get((space, key), 0) + 1
            counts.append(count)
        return counts

    def _rank(self, node: Node) -> tuple[float, ...]:
        return (last_entry(node, self._block_tokens), node.last_access_s)
