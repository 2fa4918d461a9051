"""What blocks are worth after a use of their prompt."""

from __future__ import annotations

import math
from collections.abc import Callable
from struct import Struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from superinfer.memory.index.node import Node
from superinfer.memory.orders.base import key_position
from superinfer.memory.reuse.features import Visit
from superinfer.request import Request


class Appraisal:
    """What the stretches of a prompt are worth, by bins of age."""

    __slots__ = ("_unused", "_values")

    def __init__(self, values: list[list[float]], unused: list[list[float]]) -> None:
        """A row for each stretch, as the two methods tell."""
        self._values, self._unused = values, unused

    def values(self, stretch: int) -> list[float]:
        """The value in each bin, and one more, 0, for what is older."""
        return self._values[stretch]

    def unused(self, stretch: int) -> list[float]:
        """The probability of no use up to the end of each bin."""
        return self._unused[stretch]


NO_ROWS: Final[list[list[float]]] = []


class Rows:
    """Rows of an array. Most are never asked for, so they become floats when somebody asks: with
    the few numbers of one, `struct` is several times faster than numpy.
    """

    __slots__ = ("_bytes", "_form")

    def __init__(self, array: NDArray[Any]) -> None:
        self._bytes: bytes = array.astype(np.float64).tobytes()
        self._form = Struct(f"{array.shape[1]}d")

    def row(self, number: int) -> list[float]:
        """One of them."""
        return list(self._form.unpack_from(self._bytes, number * self._form.size))


class BatchAppraisal(Appraisal):
    """Rows of a batch."""

    __slots__ = ("_all_unused", "_all_values", "_first")

    def __init__(self, values: Rows, unused: Rows, first: int) -> None:
        """Those of this prompt begin with row `first`."""
        super().__init__(NO_ROWS, NO_ROWS)
        self._all_values, self._all_unused, self._first = values, unused, first

    def values(self, stretch: int) -> list[float]:
        """A row as floats."""
        return self._all_values.row(self._first + stretch)

    def unused(self, stretch: int) -> list[float]:
        """A row as floats."""
        return self._all_unused.row(self._first + stretch)


class Worth:
    """What the blocks of a prompt are worth after its use: steps over age, for each stretch."""

    __slots__ = (
        "appraisal",
        "found_blocks",
        "kept_chance",
        "kept_s",
        "request",
        "used_s",
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
        self.appraisal: Appraisal | None = None
        """None until it is appraised."""
        self.kept_s = kept_s
        """When blocks of it went to the host, if any did."""
        self.kept_chance = kept_chance
        """How likely a use of them seemed then."""

    def values(self, stretch: int) -> list[float]:
        """What an appraised stretch is worth in each bin of age."""
        assert self.appraisal is not None
        return self.appraisal.values(stretch)

    def unused(self, stretch: int) -> list[float]:
        """The probability of no use of an appraised stretch up to the end of each bin."""
        assert self.appraisal is not None
        return self.appraisal.unused(stretch)

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


Pricing = Callable[[Worth, int, int], float]
"""What a hit on a block of a stretch, of so many bits, is worth for the room of one of 16 bits."""


def equal_prices(worth: Worth, stretch: int, bits: int) -> float:
    """Each hit counts one."""
    return 1.0


class Standing:
    """A leaf as it was when it was queued, what its rank is at every age, and its place now."""

    __slots__ = (
        "bits",
        "lasts_s",
        "node",
        "price",
        "replaced",
        "stop",
        "turn",
        "used_s",
        "values",
        "worth",
    )

    def __init__(self, node: Node, worth: Worth, values: list[float], price: float) -> None:
        self.node, self.worth = node, worth
        self.stop: int = node.stop
        self.bits: int = node.bits
        self.used_s: float = worth.used_s
        self.values, self.price = values, price
        """Of its last block, by bins of age, and what each counts. None for what is queued by age
        alone, or for nothing."""
        self.turn = 0
        """When it was queued, as a number that falls; the last of its entries counts."""
        self.lasts_s: float = math.inf
        """Until then its rank is no lower than that of its entry."""
        self.replaced = False
        """True when another one stands for the leaf."""

    def again(self) -> Standing:
        """A new one for the same leaf, as it was; this one counts no longer."""
        other = Standing(self.node, self.worth, self.values, self.price)
        other.stop, other.bits, self.replaced = self.stop, self.bits, True
        return other

    @property
    def holds(self) -> bool:
        """True while the leaf is as it was, and nobody else has used it."""
        node = self.node
        return node.note is self.worth and node.stop == self.stop and node.bits == self.bits
