"""Cached blocks on the host, by value: what is kept there, and what makes room."""

from __future__ import annotations

import math
from typing import Final

from superinfer.memory.blocks.pool import BlockPool, HostPool
from superinfer.memory.blocks.slabs import BlockSizes
from superinfer.memory.index.node import Node
from superinfer.memory.orders.guard import WINDOW
from superinfer.memory.orders.queue import ValueQueue
from superinfer.memory.orders.valued import ValuedOrder
from superinfer.memory.orders.worth import Worth
from superinfer.memory.reuse.prices import Prices

PRIOR_SHARE: Final = 0.02
"""Of the host's blocks: so many expected uses, all of which came, stand at the beginning."""
LIFE_SMOOTHING: Final = 0.02


class Pricing:
    """What a hit on a block saves, by the tier that it is on: predicted seconds times the weight,
    for the room of a block of 16 bits: one that takes a part of it saves so many times more.

    The weight of a stretch is the highest class weight of those who used it lately.
    """

    def __init__(
        self, prices: Prices, block_tokens: int, pool: BlockPool, sizes: BlockSizes
    ) -> None:
        """The device gives room in slabs, the host in bytes."""
        self._prices, self._block_tokens = prices, block_tokens
        self._device_shares = {bits: pool.share(bits) for bits in (16, 8, 4)}
        self._host_shares = {bits: sizes.of(bits) / sizes.bytes_16 for bits in (16, 8, 4)}

    def on_device(self, worth: Worth, stretch: int, bits: int) -> float:
        """Nothing has to be computed."""
        return self._price(worth, stretch, 0.0, self._device_shares[bits])

    def on_host(self, worth: Worth, stretch: int, bits: int) -> float:
        """It has to be loaded."""
        load_s = self._prices.block_copy_s("h2d", bits)
        return self._price(worth, stretch, load_s, self._host_shares[bits])

    def lost_s(self, chance: float, node: Node) -> float:
        """Expected seconds that a block of a node's end costs when it is dropped."""
        worth: Worth = node.note
        return chance * self._compute_s(worth, worth.stretch(node, self._block_tokens))

    def load_saves_s(self, node: Node) -> float:
        """Seconds that a block of a node's end saves if it is loaded and not computed."""
        worth: Worth = node.note
        stretch = worth.stretch(node, self._block_tokens)
        return self._compute_s(worth, stretch) - self._prices.block_copy_s("h2d", node.bits)

    # -- inside ---------------------------------------------------------------------------------

    def _price(self, worth: Worth, stretch: int, lost_s: float, share: float) -> float:
        """Where a hit saves all but `lost_s` of the seconds to compute a block."""
        saved_s = self._compute_s(worth, stretch)
        return worth.visit.weights[stretch] * max(0.0, saved_s - lost_s) / share

    def _compute_s(self, worth: Worth, stretch: int) -> float:
        """Seconds to compute a block of a stretch."""
        visit, request = worth.visit, worth.request
        size, end = request.hash_block_tokens, request.prompt_tokens
        stop = min(visit.stops[stretch] * size, end)
        return self._prices.block_s(visit.starts[stretch] * size, stop)


class Experience:
    """What became of blocks that went to the host: how long they stayed there, and how many of the
    uses that were expected came.
    """

    def __init__(self, capacity_blocks: int) -> None:
        self.life_s = math.inf
        """Mean stay of what went unused."""
        self._prior = self._used = self._expected = PRIOR_SHARE * capacity_blocks
        self._requests = 0

    def trust(self, requests: int) -> float:
        """Uses that came for each that was expected; what is `requests` old weighs less."""
        if requests > self._requests:
            keep = (1.0 - 1.0 / WINDOW) ** (requests - self._requests)
            self._used = self._prior + keep * (self._used - self._prior)
            self._expected = self._prior + keep * (self._expected - self._prior)
            self._requests = requests
        return self._used / self._expected

    def used(self, worth: Worth, blocks: int) -> None:
        """So many blocks are copied back."""
        self._used += blocks
        self._expected += worth.kept_chance * blocks

    def gone(self, worth: Worth, blocks: int, now: float) -> None:
        """So many made room unused."""
        self._expected += worth.kept_chance * blocks
        stayed_s = now - worth.kept_s
        if self.life_s == math.inf:
            self.life_s = stayed_s
        self.life_s += LIFE_SMOOTHING * (stayed_s - self.life_s)


class HostQueue(ValueQueue):
    """Leaves of the host."""

    def free(self, node: Node) -> bool:
        """Whether a node may go from there."""
        return node.host_reclaimable


class HostShelf:
    """The leaves of the host, lowest value first; by age alone while the device goes by age."""

    def __init__(
        self,
        order: ValuedOrder,
        pricing: Pricing,
        prices: Prices,
        host: HostPool,
        block_tokens: int,
    ) -> None:
        self._order, self._host = order, host
        self._pricing, self._prices = pricing, prices
        self._experience = Experience(host.cache_total)
        self._queue = HostQueue(order.edges_s, block_tokens, pricing.on_host)

    def keep(self, node: Node) -> bool:
        """Whether blocks of a leaf of the device are worth the copy, and their place here.

        By age alone the oldest goes, whatever it is worth.
        """
        if node.answer:
            return False
        if node.note.appraisal is None:
            self._order.appraise()
        queue, now = self._follow(), self._order.now_s
        trust = self._experience.trust(self._order.uses)  # also if unused: it fades when read
        saves_s, store_s = self._pricing.load_saves_s(node), self._store_s(node)
        if saves_s <= store_s:
            return False  # however likely a use is
        chance = self._chance(node, trust)
        if chance * saves_s <= store_s:
            return False
        if self._host.cache_room(node.bits) < 1 and not queue.plain:
            lowest = queue.lowest(now)
            if lowest is not None and lowest >= queue.value(node, now):
                return False
        worth: Worth = node.note
        worth.kept_s, worth.kept_chance = now, chance
        return True

    def lost_s(self, chance: float, node: Node) -> float:
        """Expected seconds that a block costs when it leaves the device: it comes here, if that is
        better than to drop it.
        """
        prices, bits = self._prices, node.bits
        dropped_s = self._pricing.lost_s(chance, node)
        if not self._host.cache_total:
            return dropped_s
        moved_s = self._store_s(node) + chance * prices.block_copy_s("h2d", bits)
        return min(dropped_s, moved_s)

    def push(self, node: Node) -> None:
        """Queue a leaf of the host."""
        queue = self._follow()
        worth: Worth = node.note
        if worth.appraisal is None:
            self._order.appraise()
        queue.push(node, self._order.now_s)

    def victim(self, blocks: int) -> tuple[Node, int] | None:
        """The lowest in value, back to where its stretch begins."""
        found = self._follow().pop(blocks, self._order.now_s)
        if found is not None:
            self._experience.gone(found[0].note, found[1], self._order.now_s)
        return found

    def loaded(self, node: Node) -> None:
        """A request found it here."""
        self._experience.used(node.note, node.blocks)

    # -- inside ---------------------------------------------------------------------------------

    def _chance(self, node: Node, trust: float) -> float:
        """How likely it seems that a block is used before it has to make room here."""
        chance = self._queue.chance(node, self._order.now_s, self._experience.life_s)
        return min(1.0, chance * trust)

    def _store_s(self, node: Node) -> float:
        return self._prices.block_copy_s("d2h", node.bits)

    def _follow(self) -> ValueQueue:
        """The queue, in the mode of the device's."""
        queue = self._queue
        if queue.plain != self._order.plain:
            nodes = queue.clear()
            queue.plain = self._order.plain
            for node in nodes:
                queue.push(node, self._order.now_s)
        return queue
