"""What the attention kernels share.

Triton's interpreter takes the bits of bfloat16 for integers (triton-lang/triton 4972), so every
kernel turns what it loads into float32 before arithmetic, and matrix products go through `dot`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from executor.kernels.tiles import INTERPRET, operand, power_of_two

LOG2E = tl.constexpr(1.4426950408889634)
NEVER = tl.constexpr(-1.0e30)
"""Score of a key that is not seen; finite, so that the difference of two is not NaN."""
LIFT = tl.constexpr(1024.0)
"""Weights times scales of V are kept this much larger, or float16 would lose small ones."""
LIFT_Q = tl.constexpr(16.0)
"""The same for queries times scales of K."""


@triton.jit
def dot(a, b, acc):
    """Matrix product in the type of `a`, accumulated in float32."""
    return tl.dot(operand(a), operand(b), acc, input_precision="ieee")


@triton.jit
def number(codes, DTYPE: tl.constexpr):
    """Codes of up to 8 bits as numbers of a type that holds them exactly."""
    if INTERPRET:
        return codes.to(tl.float32)
    else:
        return codes.to(DTYPE)


@triton.jit
def dims_of(columns, HALF: tl.constexpr, PAD: tl.constexpr):
    """Dimension of a column of a tile in which each half of a head is padded to PAD."""
    if HALF == PAD:
        return columns
    else:
        return (columns // PAD) * HALF + columns % PAD


@triton.jit
def see(scores, peak, total):
    """One step of the online softmax: weights, factor of what was summed before, new state."""
    new = tl.maximum(peak, tl.max(scores, 1))
    keep = tl.exp2(peak - new)
    weights = tl.exp2(scores - new[:, None])
    return weights, keep, new, total * keep + tl.sum(weights, 1)


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
