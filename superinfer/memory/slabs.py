"""Blocks of fewer bits: how large they are, and how much memory they take.

Memory is handed out in slabs of fixed size, each for blocks of one precision. A precision holds no
more slabs than its blocks need: where they are spread thin, the executor moves them together. It
takes another slab only for more blocks than have room there at 16 bits; fewer keep the room that
they have, at 16 bits or at 8. So blocks that lose bits never take more memory than before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SLAB_BYTES: Final = 64 << 20
"""Of a slab on one GPU."""
SCALE_BYTES: Final = 2
"""Scales and minima are 16-bit floats."""


Small = tuple[int, int]
"""Blocks of 8 bits and of 4 bits."""
NO_SMALL: Final[Small] = (0, 0)


@dataclass(frozen=True, slots=True)
class Slabs:
    """How many blocks of each precision fit into a slab."""

    blocks_16: int = 1
    blocks_8: int = 1
    blocks_4: int = 1

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
