"""What an eviction order is given, and what it has to answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from superinfer.memory.leaves import Leaves, Rank
from superinfer.memory.prefix import Node
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
    prefill_s: Callable[[int], float] | None = None
    """Seconds to compute the first so many blocks of a prompt; None counts blocks as equal."""


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


class Ranked:
    """An order by a rank that `retain` leaves in the nodes: the lowest goes first, of equals the
    deepest.
    """

    def __init__(self, rank: Callable[[Node], Rank]) -> None:
        self._leaves = Leaves(rank, _reclaimable)

    def unused(self, node: Node) -> None:
        """Queue a leaf by its present rank."""
        self._leaves.push(node)

    def victim(self, blocks: int) -> tuple[Node, int]:
        """The leaf of the lowest rank."""
        found = self._leaves.victim(blocks)
        assert found is not None, "nothing left to reclaim"
        return found


def _reclaimable(node: Node) -> bool:
    return node.reclaimable
