"""What an eviction order is given, and what it has to answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from mypy_extensions import mypyc_attr

from superinfer.memory.index.node import Node
from superinfer.memory.leaves import Leaves, Rank
from superinfer.memory.orders.remembered import Remembered
from superinfer.request import Request

REMEMBERED: Final = 4096
"""Requests in the younger half of those whose use is not counted again when they go on."""
NAMES: Final = 1 << 19
"""Content ids in the younger half of those that an order remembers whether cached or not.
Mooncake's conversation trace names 288,500 in all its prompts.
"""


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


@dataclass(slots=True, frozen=True)
class Use:
    """What is remembered of a request that used its prompt."""

    request: Request
    """Held, so that no other one has its address."""
    entries: list[int]


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
        self._uses: Remembered[Use] = Remembered(REMEMBERED)

    def retain(self, node: Node, request: Request) -> None:
        """Give the node what `entries` says, which is asked once for each request, also where its
        chunks alternate with those of others or it goes on after a pause.
        """
        if request is not self._request:
            self._request, self._entries = request, self._remembered(request)
        node.note = self._entries

    def entries(self, request: Request) -> list[int]:
        """What to remember of each content id of a prompt that was just used."""
        raise NotImplementedError

    def _remembered(self, request: Request) -> list[int]:
        """The entries of a request, who may have been here before."""
        known = self._uses.get(id(request))
        if known is None:
            known = Use(request, self.entries(request))
            self._uses.put(id(request), known)
        return known.entries

    def victim(self, blocks: int) -> tuple[Node, int]:
        """The lowest leaf, back to where its blocks have another entry than the last one."""
        node, count = super().victim(blocks)
        if node.answer:
            return node, count
        last, same = last_entry(node, self._block_tokens), 1
        while same < count:
            if _entry(node, node.stop - 1 - same, self._block_tokens) != last:
                break
            same += 1
        return node, same


def key_position(node: Node, block: int, block_tokens: int) -> int:
    """Which content id of a prompt covers the last token of a block."""
    return ((block + 1) * block_tokens - 1) // node.hash_tokens


def last_entry(node: Node, block_tokens: int) -> int:
    """The entry of a leaf's last block (`RankedBlocks`); of generated text, 0."""
    return 0 if node.answer else _entry(node, node.stop - 1, block_tokens)


def _entry(node: Node, block: int, block_tokens: int) -> int:
    """The entry of a block. Text that is known to follow a prompt counts as the end of that."""
    entries: list[int] = node.note
    position = key_position(node, block, block_tokens)
    return entries[min(position, len(entries) - 1)] if entries else 0


def reclaimable(node: Node) -> bool:
    """Whether it may go at all."""
    return node.reclaimable
