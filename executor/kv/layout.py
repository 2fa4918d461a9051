"""How the keys and values of a block lie in memory.

A block holds `block_tokens` tokens of one sequence over all layers, so that it moves in one copy.
Inside it every layer has one *unit* per KV head, one after the other (`[layer][kv head]`), and a
unit is, with T tokens and head dimension D:

    16 bits   K[T, D], V[T, D]                              of the model's type
     8 bits   K[T, D], V[T, D] int8; k_scale[T], v_scale[T] float16
     4 bits   K[T, D/2], V[T, D/2] uint8; k_scale[D], k_min[D], v_scale[T], v_min[T] float16

Byte i of a 4-bit row holds dimension i in its low nibble and dimension i + D/2 in its high one.
8 bits are symmetric: `value = code * scale`, codes -127 to 127. 4 bits are affine:
`value = code * scale + min`, codes 0 to 15; K is scaled per channel over the tokens of the block
and V per token (KIVI, arXiv 2402.02750, section 3).

A block is addressed by the byte offset of its beginning in the arena, whatever its precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

SCALE_BYTES = 2
"""Scales and minima are float16."""
PRECISIONS = (16, 8, 4)
"""Bits of a value; 16 stands for the model's own type, also where that is float32."""


@dataclass(frozen=True)
class KVLayout:
    """Sizes of the blocks of one model (on one GPU of a tensor-parallel group)."""

    layers: int
    kv_heads: int
    head_dim: int
    block_tokens: int
    dtype: torch.dtype

    @cached_property
    def unit_bytes(self) -> dict[int, int]:
        """Bytes of one layer and KV head of a block, per precision."""
        values, tokens, channels = (
            self.block_tokens * self.head_dim,
            self.block_tokens,
            self.head_dim,
        )
        return {
            16: 2 * values * self.dtype.itemsize,
            8: 2 * values + 2 * SCALE_BYTES * tokens,
            4: values + 2 * SCALE_BYTES * (channels + tokens),
        }

    @cached_property
    def layer_bytes(self) -> dict[int, int]:
        """Bytes of one layer of a block, per precision."""
        return {bits: self.kv_heads * size for bits, size in self.unit_bytes.items()}

    @cached_property
    def block_bytes(self) -> dict[int, int]:
        """Bytes of a block, per precision."""
        return {bits: self.layers * size for bits, size in self.layer_bytes.items()}

    def unit_offset(self, bits: int, layer: int, kv_head: int = 0) -> int:
        """Byte offset of a layer and KV head from the beginning of a block."""
        return layer * self.layer_bytes[bits] + kv_head * self.unit_bytes[bits]
