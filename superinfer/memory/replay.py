"""Replay of prompts through a prefix cache of its own: no timing, no engine, blocks are equal."""

from __future__ import annotations

import math
from collections.abc import Iterable

from superinfer.memory.blocks.pool import BlockPool
from superinfer.memory.index.keys import request_keys
from superinfer.memory.index.prefix import PrefixIndex
from superinfer.memory.orders.base import EvictionOrder
from superinfer.request import Request


class CacheReplay:
    """A cache of hash blocks, as many as fit; every prompt is inserted whole after its look-up."""

    def __init__(self, capacity_blocks: int, block_tokens: int, order: EvictionOrder) -> None:
        self._pool = BlockPool(capacity_blocks)
        self._index = PrefixIndex(self._pool, block_tokens, order)
        self._now_s = -math.inf
        self.evicts = False
        """True once a block had to go."""

    def resize(self, capacity_blocks: int) -> None:
        """So many blocks fit from the next prompt on."""
        self._pool.size = self._pool.total = capacity_blocks

    def hits(self, requests: Iterable[Request]) -> list[int]:
        """Leading blocks of each prompt that were cached when it came."""
        return [self.serve(request) for request in requests]

    def serve(self, request: Request) -> int:
        """Look up and insert one prompt; returns the leading blocks that were cached."""
        # Two requests never share a moment: which of them was the last one to use a block is known.
        self._now_s = max(request.arrival_s, math.nextafter(self._now_s, math.inf))
        keys = request_keys(request)
        if not keys:
            return 0
        index, pool = self._index, self._pool
        node, cached = index.acquire(request, keys, len(keys))
        if node is not None:
            index.hit(request, node)
        pool.referenced += len(keys) - cached
        node, _ = index.insert(request, keys, node, len(keys))
        assert node is not None
        index.release(node, self._now_s)
        if pool.excess > 0:
            self.evicts = True
            index.reclaim(pool.excess)
        return cached
