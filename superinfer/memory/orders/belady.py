"""`belady`: the block whose next use is farthest away goes first: a bound that needs the future.

L. A. Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems
Journal 5 (1966). A prefix is used at least as soon as what continues it, so to take leaves only
costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from superinfer.memory.index.keys import request_keys
from superinfer.memory.index.node import Node
from superinfer.memory.orders.base import RankedBlocks, Surroundings, last_entry
from superinfer.request import Request

NEVER = 1 << 60


class BeladyOrder(RankedBlocks):
    """Farthest next use first; it must be given every request in turn (`Request.index`)."""

    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__(self._rank, surroundings.block_tokens)
        assert surroundings.future is not None, "belady: needs the requests to come"
        self._next_uses = next_uses(surroundings.future)

    def entries(self, request: Request) -> list[int]:
        """Which request uses each block next."""
        return self._next_uses[request.index]

    def _rank(self, node: Node) -> tuple[float, ...]:
        return (-NEVER if node.answer else -last_entry(node, self._block_tokens),)


def next_uses(requests: Sequence[Request]) -> list[list[int]]:
    """For each block of each request, the position of the next request that has it."""
    upcoming: dict[object, int] = {}
    found: list[list[int]] = []
    for position in range(len(requests) - 1, -1, -1):
        request = requests[position]
        names = [(request.namespace, key) for key in request_keys(request)]
        found.append([upcoming.get(name, NEVER) for name in names])
        upcoming.update(dict.fromkeys(names, position))
    found.reverse()
    return found
