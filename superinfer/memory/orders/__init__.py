"""Eviction orders: which cached block goes first. The cache study replays traces through them, and
a memory policy of the engine can take the order of its leaves from one.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

from superinfer.errors import ConfigError
from superinfer.memory.orders.base import EvictionOrder, Surroundings

__all__ = ["ORDERS", "EvictionOrder", "Surroundings", "build_order"]

ORDERS: Final[dict[str, str]] = {
    "lru": "superinfer.memory.orders.lru:LruOrder",
    "lfu": "superinfer.memory.orders.lfu:LfuOrder",
    "fifo": "superinfer.memory.orders.fifo:FifoOrder",
    "two_level": "superinfer.memory.orders.two_level:TwoLevelOrder",
    "gdsf": "superinfer.memory.orders.gdsf:GdsfOrder",
    "s3fifo": "superinfer.memory.orders.s3fifo:S3FifoOrder",
    "tail_lru": "superinfer.memory.orders.tail_lru:TailLruOrder",
    "category_exponential": "superinfer.memory.orders.category:CategoryOrder",
    "slo_aware": "superinfer.memory.orders.slo_aware:LearnedOrder",
    "belady": "superinfer.memory.orders.belady:BeladyOrder",
}


def build_order(name: str, surroundings: Surroundings) -> EvictionOrder:
    """A new order by name."""
    path = ORDERS.get(name, name)
    if ":" not in path:
        raise ConfigError(f"policies: expected some of {', '.join(ORDERS)}, got {name!r}")
    module, _, attribute = path.partition(":")
    order: EvictionOrder = getattr(import_module(module), attribute)(surroundings)
    return order
