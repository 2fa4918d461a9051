"""What the attention kernels share.

Triton's interpreter takes the bits of bfloat16 for integers (triton-lang/triton 4972), so every
kernel turns what it loads into float32 before arithmetic, and matrix products go through `dot`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from executor.kernels.tiles import operand, power_of_two
from executor.kv.layout import KVLayout

LOG2E = tl.constexpr(1.4426950408889634)
NEVER = tl.constexpr(-1.0e30)
"""Score of a key that is not seen; finite, so that the difference of two is not NaN."""
LIFT = tl.constexpr(1024.0)
"""Weights times scales of V are kept this much larger, or float16 would lose small ones."""


@triton.jit
def dot(a, b, acc):
    """Matrix product in the type of `a`, accumulated in float32."""
    return tl.dot(operand(a), operand(b), acc, input_precision="ieee")


@triton.jit
def aligned(offset):
    """A byte offset of a block as what it is, a multiple of 16.

    In arithmetic, since the software pipeline loses what `tl.multiple_of` says.
    """
    return (offset >> 4) << 4


@triton.jit
def blocks_of(arena, offsets, token, tokens, T: tl.constexpr):
    """Where the blocks of some tokens of an item begin; those beyond the last count as block 0."""
    return arena + aligned(tl.load(offsets + token // T, mask=token < tokens, other=0))


@triton.jit
def dims_of(columns, HALF: tl.constexpr, PAD: tl.constexpr):
    """Dimension of a column of a tile in which each half of a head is padded to PAD."""
    if HALF == PAD:
        return columns
    else:
        return (columns // PAD) * HALF + columns % PAD


@triton.jit
def see(scores, scale, peak):
    """One step of the online softmax of `scores` times a positive `scale`.

    Returns weights, the factor of what was summed before, and the new largest score.
    """
    new = tl.maximum(peak, tl.max(scores, 1) * scale)
    return tl.exp2(scores * scale - new[:, None]), tl.exp2(peak - new), new


@triton.jit
def relative_bias(bias, rows, distance, reach, mask):
    """Table row `rows` at a clamped distance, times log2(e)."""
    entry = tl.minimum(tl.maximum(distance, -reach), reach) + reach
    return tl.load(bias + rows * (2 * reach + 1) + entry, mask=mask, other=0.0) * LOG2E


def padded_half(head_dim: int) -> int:
    """Columns that hold half a head: a power of two, and at least what a matrix product takes."""
    return max(16, power_of_two(head_dim // 2))


def reach_of(bias: Tensor | None) -> int:
    """Largest distance that a table of relative biases tells apart."""
    return 0 if bias is None else bias.shape[1] // 2


@dataclass(frozen=True)
class Form:
    """A model's heads and blocks, for which the kernels are listed in the registry."""

    kv_heads: int
    group: int
    head_dim: int
    block_tokens: int

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.kv_heads * self.group

    @property
    def layout(self) -> KVLayout:
        """Its blocks; the number of layers is no part of a kernel."""
        return KVLayout(32, self.kv_heads, self.head_dim, self.block_tokens, torch.bfloat16)

    def __str__(self) -> str:
        return (
            f"{self.kv_heads}x{self.group} heads of {self.head_dim}, blocks of {self.block_tokens}"
        )


FORMS = (
    Form(8, 4, 128, 32),  # Llama 3.1 8B
    Form(8, 8, 128, 32),  # Llama 3.1 70B
    Form(8, 4, 64, 32),  # Llama 3.2 1B
    Form(32, 1, 80, 32),  # Phi 2
    Form(8, 4, 128, 16),
    Form(8, 4, 128, 64),
)
"""Head dimensions, groups and sizes of blocks of which each kernel is listed."""
BIASED = Form(8, 1, 64, 32)
"""T5 small: a relative bias."""
