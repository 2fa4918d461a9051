"""`belady`: the block whose next use is farthest away goes first: a bound that needs the future.

L. A. Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems
Journal 5 (1966). A prefix is used at least as soon as what continues it, so to take leaves only
costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from superinfer.memory.orders.base import Ranked, Surroundings
from superinfer.memory.prefix import Node, request_keys
from superinfer.request import Request

NEVER = 1 << 60


class BeladyOrder(Ranked):
    """Farthest next use first; it must be given every request in turn (`Request.index`)."""

    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__(self._rank)
        assert surroundings.future is not None, "belady: needs the requests to come"
        self._next_uses = next_uses(surroundings.future)

    def retain(self, node: Node, request: Request) -> None:
        """Remember which request used it last."""
        node.note = self._next_uses[request.index]

    def victim(self, blocks: int) -> tuple[Node, int]:
        """The farthest leaf, back to the last block that is used before its end is."""
        node, count = super().victim(blocks)
        uses: list[int] = node.note
        last = uses[node.stop - 1]
        same = 1
        while same < count and uses[node.stop - 1 - same] == last:
            same += 1
        return node, same

    def _rank(self, node: Node) -> tuple[float, ...]:
        return (-node.note[node.stop - 1],)


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
