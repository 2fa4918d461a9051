"""`gdsf`, `lfu`, `s3fifo` and the others: an eviction order of the cache study, in the engine.

The order alone decides which unused block goes first (`memory.orders`); victims and copies back are
those of `lru`, and there is no tier on the host. An order that needs the future (`belady`) has no
policy. Blocks of running requests take their part of the memory, so the capacity that an order is
told, all blocks of the device, is more than what is cached at most times.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

from superinfer.memory.base import Fate, Timing
from superinfer.memory.index.node import Node
from superinfer.memory.index.prefix import PrefixIndex
from superinfer.memory.lru import Preemption, chosen_fate
from superinfer.memory.orders import EvictionOrder, Surroundings, build_order

if TYPE_CHECKING:
    from superinfer.draft import Draft
    from superinfer.memory.blocks.pool import BlockPool, HostPool
    from superinfer.request import Request
    from superinfer.sequence import Sequence


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class OrderedMemory:
    """Leaves go in the order that `name` names."""

    preemption: Preemption = "recompute"
    """Fate of a victim's cache; `cheaper` compares predicted seconds of both ways."""
    swap_in_timing: Timing = "before_step"
    name: str = field(default_factory=str, init=False)
    whole_edges: bool = field(default_factory=lambda: True, init=False)
    _order: EvictionOrder | None = field(default_factory=lambda: None, init=False, repr=False)

    def index(self, pool: BlockPool, host: HostPool, block_tokens: int) -> PrefixIndex:
        """A tree whose leaves go in this order, which begins anew."""
        self._order = build_order(self.name, Surroundings(pool.total, block_tokens))
        return PrefixIndex(pool, block_tokens, self)

    def retain(self, node: Node, request: Request) -> None:
        """A use."""
        self._used.retain(node, request)

    def unused(self, node: Node) -> None:
        """Queue it."""
        self._used.unused(node)

    def victim(self, blocks: int) -> tuple[Node, int]:
        """What the order gives up."""
        return self._used.victim(blocks)

    def fate(self, seq: Sequence, draft: Draft) -> Fate:
        """As configured."""
        return chosen_fate(self.preemption, seq, draft)

    @property
    def _used(self) -> EvictionOrder:
        assert self._order is not None, "the engine asks for the index first"
        return self._order


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class GdsfMemory(OrderedMemory):
    """GreedyDual-Size-Frequency: uses that age by inflation."""

    name: str = field(default_factory=lambda: "gdsf", init=False)


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class LfuMemory(OrderedMemory):
    """Fewest uses first, those of evicted blocks included."""

    name: str = field(default_factory=lambda: "lfu", init=False)


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class S3FifoMemory(OrderedMemory):
    """S3-FIFO: a small queue for what is new, a main queue, and a memory of names."""

    name: str = field(default_factory=lambda: "s3fifo", init=False)


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class TwoLevelMemory(OrderedMemory):
    """What was only ever used once first, then the rest, each by age."""

    name: str = field(default_factory=lambda: "two_level", init=False)


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class TailLruMemory(OrderedMemory):
    """The last 2,048 tokens of each prompt first, then by age."""

    name: str = field(default_factory=lambda: "tail_lru", init=False)


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class CategoryMemory(OrderedMemory):
    """The least likely to be used again first, by the turn of the conversation."""

    name: str = field(default_factory=lambda: "category_exponential", init=False)


@mypyc_attr(allow_interpreted_subclasses=True)
@dataclass
class FifoMemory(OrderedMemory):
    """What came first."""

    name: str = field(default_factory=lambda: "fifo", init=False)
