"""What blocks are worth after a use of their prompt."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from superinfer.memory.orders.base import key_position
from superinfer.memory.prefix import Node
from superinfer.memory.reuse.history import Visit
from superinfer.request import Request


class Appraisal(NamedTuple):
    """What the stretches of a prompt are worth, by bins of age."""

    values: list[list[float]]
    """One more, 0, for what is older."""
    unused: list[list[float]]
    """Probabilities of no use up to the end of each bin."""


class Worth:
    """What the blocks of a prompt are worth after its use: steps over age, for each stretch."""

    __slots__ = (
        "compute_s",
        "device_prices",
        "found_blocks",
        "host_prices",
        "kept_chance",
        "kept_s",
        "request",
        "unused",
        "used_s",
        "values",
        "visit",
    )

    def __init__(
        self,
        request: Request,
        used_s: float,
        visit: Visit,
        kept_s: float = 0.0,
        kept_chance: float = 0.0,
    ) -> None:
        self.request, self.used_s, self.visit = request, used_s, visit
        self.found_blocks = 0
        """In the cache when the request came."""
        self.values: list[list[float]] = []
        """For each stretch the value in each bin of age. Empty until it is appraised."""
        self.unused: list[list[float]] = []
        """For each stretch the probability of no use up to the end of each bin."""
        self.compute_s: list[float] = []
        """For each stretch the seconds to compute a block. Empty until somebody asks."""
        self.device_prices: dict[int, list[float]] = {}
        """For each stretch what a hit on the device is worth, by the bits of the block."""
        self.host_prices: dict[int, list[float]] = {}
        """The same on the host."""
        self.kept_s = kept_s
        """When blocks of it went to the host, if any did."""
        self.kept_chance = kept_chance
        """How likely a use of them seemed then."""

    def stretch(self, node: Node, block_tokens: int) -> int:
        """Which stretch of the prompt a node's last block is in."""
        position = key_position(node, node.stop - 1, block_tokens)
        starts = self.visit.starts
        stretch = len(starts) - 1
        while starts[stretch] > position:
            stretch -= 1
        return stretch

    def first_block(self, node: Node, block_tokens: int) -> int:
        """Where the part of a node begins that is in the stretch of its last block."""
        if node.answer:
            return node.start
        first = self.visit.starts[self.stretch(node, block_tokens)]
        return max(node.start, first * node.hash_tokens // block_tokens)


Pricing = Callable[[Worth, int], list[float] | None]
"""What a hit on a block of so many bits is worth for the room of one of 16 bits, for each stretch;
None where each counts one."""


class Standing:
    """A leaf as it was when it was queued, what its rank is at every age, and its place now."""

    __slots__ = ("bits", "edge", "node", "ranks", "stop", "turn", "until_s", "used_s", "worth")

    def __init__(self, node: Node, worth: Worth, ranks: list[float]) -> None:
        self.node, self.worth = node, worth
        self.stop: int = node.stop
        self.bits: int = node.bits
        self.used_s: float = worth.used_s
        self.ranks = ranks
        """By bins of age; of its last block."""
        self.edge = 0
        """The bin in which it is queued."""
        self.until_s: float = math.inf
        """When that ends."""
        self.turn = 0
        """When it was queued there, as a number that falls; the last of its entries counts."""

    @property
    def holds(self) -> bool:
        """True while the leaf is as it was, and nobody else has used it."""
        node = self.node
        return node.note is self.worth and node.stop == self.stop and node.bits == self.bits
