"""What the attention kernels share.

Triton's interpreter takes the bits of bfloat16 for integers (triton-lang/triton 4972), so every
kernel turns what it loads into float32 before arithmetic, and matrix products go through `dot`.
"""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRET = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
LOG2E = tl.constexpr(1.4426950408889634)
NEVER = tl.constexpr(-1.0e30)
"""Score of a key that is not seen; finite, so that the difference of two is not NaN."""
LIFT = tl.constexpr(1024.0)
"""Probabilities times scales of V are kept this much larger, or float16 would lose small ones."""
LIFT_Q = tl.constexpr(16.0)
"""The same for queries times scales of K."""

TRITON_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@triton.jit
def dot(a, b, acc):
    """Matrix product in the type of `a`, accumulated in float32."""
    if INTERPRET:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    else:
        return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def number(codes, dtype: tl.constexpr):
    """Integer codes as numbers of the type of the queries; exact for up to 8 bits."""
    if INTERPRET:
        return codes.to(tl.float32)
    else:
        return codes.to(dtype)


@triton.jit
def dims_of(columns, HALF: tl.constexpr, PAD: tl.constexpr):
    """Dimension of a column of a tile in which each half of a head is padded to PAD."""
    if HALF == PAD:
        return columns
    else:
        return (columns // PAD) * HALF + columns % PAD


@triton.jit
def relative_bias(bias, heads, distance, reach, mask):
    """Rows `heads` of the table at a clamped distance, times log2(e)."""
    entry = tl.minimum(tl.maximum(distance, -reach), reach) + reach
    return tl.load(bias + heads * (2 * reach + 1) + entry, mask=mask, other=0.0) * LOG2E


def padded_half(head_dim: int) -> int:
    """Columns that hold half a head: a power of two, and at least what a matrix product takes."""
    return max(16, triton.next_power_of_2(head_dim // 2))


def capability(tensor: Tensor) -> int:
    """80 or 90, the tile table to use; the interpreter takes the newest."""
    if tensor.device.type != "cuda":
        return 90
    major, _ = torch.cuda.get_device_capability(tensor.device)
    return 80 if major < 9 else 90


def reach_of(bias: Tensor | None) -> int:
    """Largest distance that a table of relative biases tells apart."""
    return 0 if bias is None else bias.shape[1] // 2
