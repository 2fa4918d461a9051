"""What an eviction order is given, and what it has to answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mypy_extensions import mypyc_attr

from superinfer.memory.index.node import Node
from superinfer.memory.leaves import Leaves, Rank
from superinfer.request import Request


@dataclass(slots=True, frozen=True)
class Surroundings:
    """What an order may know of the cache that it serves."""

    capacity_blocks: int
    block_tokens: int
    future: Sequence[Request] | None = None
    """All requests, those to come too: for the offline bound alone."""
    weights: str | None = None
    """File of a trained model; None takes the one that ships."""
    whole_blocks: bool = False
    """Only full blocks short of the end of a prompt can be found, as in an engine."""


class EvictionOrder(Protocol):
    """A `LeafOrder` that is told who uses a node (`Retention`).

    Only leaves go, and an edge loses its last blocks first, so what is cached stays a set of
    prefixes whatever the order.
    """

    def retain(self, node: Node, request: Request) -> None:
        """`request` computed `node`, or found it in the cache."""
        ...

    def unused(self, node: Node) -> None:
        """`node` became a leaf that nobody holds (or changed while it was one)."""
        ...

    def victim(self, blocks: int) -> tuple[Node, int]:
        """The leaf that loses blocks now, and how many."""
        ...


@mypyc_attr(allow_interpreted_subclasses=True)
class Ranked:
    """An order by a rank of leaves: the lowest goes first, of equals the deepest."""

    def __init__(self, rank: Callable[[Node], Rank]) -> None:
        self._leaves = Leaves(rank, reclaimable)

    def unused(self, node: Node) -> None:
        """Queue a leaf by its present rank."""
        self._leaves.push(node)

    def victim(self, blocks: int) -> tuple[Node, int]:
        """The leaf of the lowest rank."""
        found = self._leaves.victim(blocks)
        assert found is not None, "nothing left to reclaim"
        return found


@mypyc_attr(allow_interpreted_subclasses=True)
class RankedBlocks(Ranked):
    """An order that thinks of every block for itself: `note` of a node is a list with an entry for
    each content id of the request that used it last.
    """

    def __init__(self, rank: Callable[[Node], Rank], block_tokens: int) -> None:
        super().__init__(rank)
        self._block_tokens = block_tokens
        self._request: Request | None = None
        self._entries: list[int] = []

    def retain(self, node: Node, request: Request) -> None:
        """Give the node what `entries` says, which is asked once for each request."""
        if request is not self._request:
            self._request = request
            self._entries = self.entries(request)
        node.note = self._entries

    def entries(self, request: Request) -> list[int]:
        """What to remember of each content id of a prompt that was just used."""
        raise NotImplementedError

    def victim(self, blocks: int) -> tuple[Node, int]:
        """The lowest leaf, back to where its blocks have another entry than the last one."""
        node, count = super().victim(blocks)
        if node.answer:
            return node, count
        last = key_position(node, node.stop - 1, self._block_tokens)
        same = 1
        while same < count:
            position = key_position(node, node.stop - 1 - same, self._block_tokens)
            if node.note[position] != node.note[last]:
                break
            same += 1
        return node, same


def key_position(node: Node, block: int, block_tokens: int) -> int:
    """Which content id of a prompt covers the last token of a block."""
    return ((block + 1) * block_tokens - 1) // node.hash_tokens


def last_entry(node: Node, block_tokens: int) -> int:
    """The entry of a leaf's last block (`RankedBlocks`); of generated text, 0."""
    if node.answer:
        return 0
    entry: int = node.note[key_position(node, node.stop - 1, block_tokens)]
    return entry


def reclaimable(node: Node) -> bool:
    """Whether it may go at all."""
    return node.reclaimable
