"""Cached blocks that nobody holds lose bits instead of going, where that keeps more value."""

from __future__ import annotations

import math
from collections.abc import Callable

from superinfer.memory.blocks.pool import BlockPool
from superinfer.memory.blocks.slabs import FIRST_BLOCKS
from superinfer.memory.index.node import Node
from superinfer.memory.orders.host import LIFE_SMOOTHING
from superinfer.memory.orders.valued import ValuedOrder
from superinfer.memory.orders.worth import Worth
from superinfer.memory.reuse.prices import Prices

NEXT_BITS = {16: (8, 4), 8: (4,), 4: ()}
"""What a block may lose bits to: the first of these that its users allow and that makes room."""
Part = tuple[int, int, int]
"""The first block, the one behind the last, and the bits that they get."""


class Shrinking:
    """Decides about the leaf that is the next to go.

    Going makes the room of a block, and loses with some probability the seconds to have it again.
    Bits that are lost make a part of that room, and cost the seconds of the conversion, for which
    the step waits. For equal room the smaller loss is taken.
    """

    def __init__(
        self,
        order: ValuedOrder,
        prices: Prices,
        pool: BlockPool,
        lost_s: Callable[[float, Node], float],
        fewest_bits: int,
        tail_tokens: int,
        block_tokens: int,
    ) -> None:
        """`lost_s` tells the expected seconds that a block costs when it goes, by the probability
        of a use. No block gets less than `fewest_bits`.
        """
        self._order, self._prices = order, prices
        self._pool, self._lost_s, self._fewest_bits = pool, lost_s, fewest_bits
        self._tail_blocks = -(-tail_tokens // block_tokens)
        self._block_tokens = block_tokens
        self._life_s = math.inf
        """Mean time from its latest use until a leaf is the next to go."""
        self._judged: Node | None = None

    def part(self, node: Node) -> Part | None:
        """What of a leaf loses bits now; None if it goes instead.

        One that was used until this moment may have to be copied as it is.
        """
        order, worth = self._order, node.note
        assert isinstance(worth, Worth)
        self._note_life(node, worth)
        if (
            order.plain
            or node.answer
            or worth.appraisal is None
            or node.last_access_s >= order.now_s
        ):
            return None
        start, stop = self._blocks(node, worth)
        bits = self._bits(node)
        if start >= stop or bits is None or not self._pays(node, bits):
            return None
        return start, stop, bits

    # -- inside ---------------------------------------------------------------------------------

    def _note_life(self, node: Node, worth: Worth) -> None:
        if node is self._judged:
            return
        self._judged = node
        age_s = self._order.now_s - worth.used_s
        if self._life_s == math.inf:
            self._life_s = age_s
        self._life_s += LIFE_SMOOTHING * (age_s - self._life_s)

    def _blocks(self, node: Node, worth: Worth) -> tuple[int, int]:
        """Its last stretch but the first block of all and the latest ones of the prompt."""
        latest = (worth.request.prompt_tokens - 1) // self._block_tokens - self._tail_blocks
        first = max(FIRST_BLOCKS, worth.first_block(node, self._block_tokens))
        return first, min(node.stop, latest)

    def _bits(self, node: Node) -> int | None:
        share, fewest = self._pool.share, max(node.floor_bits, self._fewest_bits)
        for bits in NEXT_BITS[node.bits]:
            if bits >= fewest and share(bits) < share(node.bits):
                return bits
        return None

    def _pays(self, node: Node, bits: int) -> bool:
        before, after = self._pool.share(node.bits), self._pool.share(bits)
        lost_s = self._lost_s(self._order.chance(node, self._life_s), node) / before
        return lost_s > self._prices.convert_s(node.bits, bits) / (before - after)
