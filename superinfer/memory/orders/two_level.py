"""`two_level`: what was used once goes before what was used again, each least recently used first.

The segments of R. Karedla, J. S. Love, B. G. Wherry, "Caching strategies to improve disk system
performance", IEEE Computer 27 (1994), without a bound on the protected one: a block that was ever
used again, also after it was evicted, is in the upper level. What has not been used for very long
is new again (`NAMES`).
"""

from __future__ import annotations

from superinfer.memory.index.keys import request_keys
from superinfer.memory.index.node import Node
from superinfer.memory.orders.base import NAMES, RankedBlocks, Surroundings, last_entry
from superinfer.memory.orders.remembered import Remembered
from superinfer.request import Request


class TwoLevelOrder(RankedBlocks):
    """The level first, then the last use."""

    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__(self._rank, surroundings.block_tokens)
        self._seen: Remembered[bool] = Remembered(NAMES)

    def entries(self, request: Request) -> list[int]:
        """The level of each block: 0 when it is new, else 1."""
        names = [(request.namespace, key) for key in request_keys(request)]
        levels = [int(bool(self._seen.get(name))) for name in names]
        for name in names:
            self._seen.put(name, True)
        return levels

    def _rank(self, node: Node) -> tuple[float, ...]:
        return (last_entry(node, self._block_tokens), node.last_access_s)
