"""`s3fifo`: a small queue for what is new, a main queue for what was used again, and a memory.

Source: J. Yang, Y. Zhang, Z. Qiu, Y. Yue, R. Vinayak, "FIFO queues are all you need for cache
eviction", SOSP '23, algorithm 1. The small queue has a tenth of the capacity. What reaches its end
moves to the main queue if it was used more than once since it came, else it goes and its name is
remembered among as many as the main queue has blocks; what comes back from there enters the main
queue. There a block is given another round for each use, of which three count.

Here the end of a queue is its oldest leaf, because a prefix cannot go before what continues it.
"""

from __future__ import annotations

from typing import NamedTuple

from superinfer.memory.index.node import Node
from superinfer.memory.leaves import Leaves
from superinfer.memory.orders.base import Surroundings, key_position, reclaimable
from superinfer.request import Request

SMALL_SHARE = 0.1
MOST_USES = 3


class Place(NamedTuple):
    """Where a node stands."""

    main: bool
    turn: int
    uses: int
    """Uses since it came, or since its latest round in the main queue."""


class S3FifoOrder:
    """Two queues of leaves, and the names of what left the small one."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._block_tokens = surroundings.block_tokens
        self._small_limit = SMALL_SHARE * surroundings.capacity_blocks
        self._ghosts_limit = int((1 - SMALL_SHARE) * surroundings.capacity_blocks)
        self._small = Leaves(_turn, lambda node: reclaimable(node) and not node.note.main)
        self._main = Leaves(_turn, lambda node: reclaimable(node) and node.note.main)
        self._small_blocks = self._turns = 0
        self._ghosts: dict[object, None] = {}

    def retain(self, node: Node, request: Request) -> None:
        """A new node enters a queue, a known one has a use more."""
        place: Place | None = node.note
        if place is not None:
            node.note = place._replace(uses=min(MOST_USES, place.uses + 1))
            return
        main = not node.answer and node.keys[0] in self._ghosts  # decides for all of a node
        self._small_blocks += 0 if main else node.blocks
        node.note = self._place(main, 0)

    def unused(self, node: Node) -> None:
        """Queue a leaf at its place."""
        (self._main if node.note.main else self._small).push(node)

    def victim(self, blocks: int) -> tuple[Node, int]:
        """From the small queue while that has its share, else from the main one."""
        if self._small_blocks >= self._small_limit:
            found = self._from_small(blocks)
        else:
            found = self._from_main(blocks) or self._from_small(blocks)
        found = found or self._from_main(blocks)  # all of the small queue may just have moved on
        assert found is not None, "nothing left to reclaim"
        return found

    # -- inside ---------------------------------------------------------------------------------

    def _place(self, main: bool, uses: int) -> Place:
        self._turns += 1
        return Place(main, self._turns, uses)

    def _from_small(self, blocks: int) -> tuple[Node, int] | None:
        """What the small queue loses; None if all its leaves move on."""
        while (found := self._small.victim(blocks)) is not None:
            node, count = found
            if node.note.uses <= 1:
                self._small_blocks -= count
                self._remember(node, count)
                return found
            self._small_blocks -= node.blocks
            node.note = self._place(True, 0)
            self._main.push(node)
        return None

    def _from_main(self, blocks: int) -> tuple[Node, int] | None:
        """What the main queue loses, when it has given each use another round."""
        while (found := self._main.victim(blocks)) is not None:
            node = found[0]
            if not node.note.uses:
                return found
            node.note = self._place(True, node.note.uses - 1)
            self._main.push(node)
        return None

    def _remember(self, node: Node, blocks: int) -> None:
        """Keep the names of a leaf's last blocks, and forget the oldest ones."""
        if node.answer:
            return
        first = key_position(node, node.start, self._block_tokens)
        for block in range(node.stop - blocks, node.stop):
            key = node.keys[key_position(node, block, self._block_tokens) - first]
            self._ghosts.pop(key, None)
            self._ghosts[key] = None
        while len(self._ghosts) > self._ghosts_limit:
            del self._ghosts[next(iter(self._ghosts))]


def _turn(node: Node) -> tuple[float, ...]:
    return (node.note.turn,)
