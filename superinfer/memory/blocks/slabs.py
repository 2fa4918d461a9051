"""Blocks of fewer bits: how large they are, and how much memory they take.

Memory is handed out in slabs of fixed size, each for blocks of one precision. A precision holds no
more slabs than its blocks need: where they are spread thin, the executor moves them together. It
takes another slab only for more blocks than have room there at 16 bits; fewer keep the room that
they have, at 16 bits or at 8. So blocks that lose bits never take more memory than before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

SLAB_BYTES: Final = 64 << 20
"""Of a slab on one GPU."""
SCALE_BYTES: Final = 2
"""Scales and minima are 16-bit floats."""

FIRST_BLOCKS: Final = 1
"""Blocks at the beginning that keep 16 bits: attention leans on the first tokens."""

Small = tuple[int, int]
"""Blocks of 8 bits and of 4 bits."""
NO_SMALL: Final[Small] = (0, 0)


class Blocks(NamedTuple):
    """So many blocks, `small` ones of 8 and 4 bits among them."""

    number: int
    small: Small = NO_SMALL

    def plus(self, bits: int, more: int) -> Blocks:
        """With so many more of these bits."""
        return Blocks(self.number + more, added(self.small, small_of(bits, more)))


NO_BLOCKS: Final = Blocks(0)


def small_of(bits: int, count: int) -> Small:
    """Of `count` blocks of these bits."""
    if bits == 16:
        return NO_SMALL
    return (count, 0) if bits == 8 else (0, count)


def added(one: Small, other: Small) -> Small:
    """Both together."""
    return one[0] + other[0], one[1] + other[1]


def lacking(more: Small, fewer: Small) -> Small:
    """What the first has more than the second."""
    return more[0] - fewer[0], more[1] - fewer[1]


@dataclass(frozen=True, slots=True)
class Slabs:
    """How many blocks of each precision fit into a slab."""

    blocks_16: int = 1
    blocks_8: int = 1
    blocks_4: int = 1

    def share(self, bits: int) -> float:
        """Room that a block takes in a full slab, as a share of a block of 16 bits."""
        per_slab = {16: self.blocks_16, 8: self.blocks_8, 4: self.blocks_4}
        return self.blocks_16 / per_slab[bits]

    def saved(self, blocks_8: int, blocks_4: int) -> int:
        """Blocks of 16 bits that find room because these take less."""
        rest = blocks_4 % self.blocks_4
        apart = self._saved(blocks_8, self.blocks_8) + self._saved(blocks_4, self.blocks_4)
        if not (rest and blocks_8):
            return apart
        beside = self._saved(blocks_8 + rest, self.blocks_8)
        return max(apart, beside + self._saved(blocks_4 - rest, self.blocks_4))

    def _saved(self, blocks: int, per_slab: int) -> int:
        slabs, rest = divmod(blocks, per_slab)
        return slabs * (per_slab - self.blocks_16) + max(0, rest - self.blocks_16)


ONE_BLOCK_SLABS: Final = Slabs()
"""For systems that know 16 bits only."""


@dataclass(frozen=True, slots=True)
class BlockSizes:
    """Bytes of a block of each precision, where nothing is handed out in slabs."""

    bytes_16: int = 1
    bytes_8: int = 1
    bytes_4: int = 1

    def of(self, bits: int) -> int:
        """Of one block."""
        return {16: self.bytes_16, 8: self.bytes_8, 4: self.bytes_4}[bits]

    def saved(self, small: Small) -> int:
        """Bytes by which so many smaller blocks are less than as many of 16 bits."""
        return small[0] * (self.bytes_16 - self.bytes_8) + small[1] * (self.bytes_16 - self.bytes_4)

    def total(self, blocks: int, small: Small) -> int:
        """Bytes of so many blocks, `small` ones among them."""
        return blocks * self.bytes_16 - self.saved(small)


EQUAL_SIZES: Final = BlockSizes()
"""For systems that know 16 bits only, which count blocks."""


def slabs_of(bytes_16: int, bytes_8: int, bytes_4: int, slab_bytes: int = SLAB_BYTES) -> Slabs:
    """Slabs for blocks of these sizes, of as many whole 16-bit blocks as `slab_bytes` hold."""
    blocks = max(1, slab_bytes // bytes_16)
    held = blocks * bytes_16
    return Slabs(blocks, max(1, held // bytes_8), max(1, held // bytes_4))


def block_bytes(heads: int, head_dim: int, layers: int, block_tokens: int, bits: int) -> int:
    """Bytes of a block of K and V with its scales.

    8 bits: a scale per token and head, for K and for V. 4 bits: a scale and a minimum per channel
    for K, which needs whole blocks, and per token and head for V (KIVI, arXiv 2402.02750, section
    3: keys vary by channel, values by token).
    """
    values = heads * head_dim * block_tokens
    if bits == 16:
        return 4 * layers * values
    tokens = heads * block_tokens
    if bits == 8:
        return layers * (2 * values + 2 * SCALE_BYTES * tokens)
    channels = heads * head_dim
    return layers * (values + 2 * SCALE_BYTES * (channels + tokens))
