"""`gdsf`: GreedyDual-Size-Frequency, with frequencies that age by inflation.

Source: L. Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency caching
policy", HP Labs HPL-98-69R1 (1998); for prefixes RAGCache (arXiv 2404.12457, section 5.1), where a
leaf goes first. A block's priority is L + uses x cost / size, and L is the priority of the latest
victim. Blocks are of one size here and cost the same, as hits are counted; RAGCache's cost is the
time to compute a document's tokens. An evicted block loses its uses.
"""

from __future__ import annotations

from superinfer.memory.index.node import Node
from superinfer.memory.orders.base import Ranked, Surroundings
from superinfer.request import Request


class GdsfOrder(Ranked):
    """Lowest priority first, of equals the least recently used."""

    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__(_rank)
        self._inflation = 0

    def retain(self, node: Node, request: Request) -> None:
        """One use more, at the present inflation."""
        uses = 1 if node.note is None else node.note[1] + 1
        node.note = (self._inflation + uses, uses)

    def victim(self, blocks: int) -> tuple[Node, int]:
        """The lowest leaf, whose priority is the inflation from now on."""
        node, count = super().victim(blocks)
        self._inflation = node.note[0]
        return node, count


def _rank(node: Node) -> tuple[float, ...]:
    return (node.note[0], node.last_access_s)
