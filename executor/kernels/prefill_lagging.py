"""Keys of a chunk that all its rows see, in an order in which products and softmax overlap.

On sm_90 the product with the values of a tile runs beside the softmax of the next tile: between the
two nothing asks for its result.
"""

# Kernels take what they need one by one.
# ruff: noqa: PLR0913, PLR0917

from __future__ import annotations

import triton
import triton.language as tl

from executor.kernels.common import aligned, dims_of, dot, see


@triton.jit
def _rows_of(
    arena, offsets, begin, there,
    D: tl.constexpr, T: tl.constexpr, PAD: tl.constexpr, BN: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Where keys of 16 bits lie, of the BN tokens from `begin`, if they are all `there`."""
    dims = dims_of(tl.arange(0, 2 * PAD), D // 2, PAD)
    key = begin + tl.arange(0, BN)
    unit = arena + aligned(tl.load(offsets + key // T, mask=there, other=0))
    return unit.to(tl.pointer_type(DTYPE))[:, None] + ((key % T)[:, None] * D + dims[None, :])


@triton.jit
def attend_lagging(
    query, arena, offsets, end, acc, peak, total, scale,
    D: tl.constexpr, T: tl.constexpr, PAD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Keys [0, end) of 16 bits, whole tiles that every row sees; values are added a tile late.

    Two things look odd, and without them the compiler waits for the product at once. Weights become
    an operand in the turn of their product. And the first turn adds a tile whose weights are all 0,
    since a branch around it would define the sum in two places.
    """
    DTYPE: tl.constexpr = query.dtype
    inside = (tl.arange(0, 2 * PAD) % PAD < D // 2)[None, :]
    weights = tl.zeros([query.shape[0], BN], tl.float32)
    keep = tl.full([query.shape[0]], 1.0, tl.float32)
    for start in range(0, end, BN):
        keys = _rows_of(arena, offsets, start, True, D, T, PAD, BN, DTYPE)
        before = tl.maximum(start - BN, 0)
        values = _rows_of(arena, offsets, before, True, D, T, PAD, BN, DTYPE) + T * D
        k = tl.load(keys, mask=inside, other=0)
        v = tl.load(values, mask=inside, other=0)
        scores = dot(query, tl.trans(k), tl.zeros([query.shape[0], BN], tl.float32))
        acc = dot(weights.to(DTYPE), v, acc * keep[:, None])
        weights, keep, peak = see(scores, scale, peak)
        total = total * keep + tl.sum(weights, 1)
    last = tl.maximum(end - BN, 0)
    values = _rows_of(arena, offsets, last, end > 0, D, T, PAD, BN, DTYPE) + T * D
    v = tl.load(values, mask=inside & (end > 0), other=0)
    return dot(weights.to(DTYPE), v, acc * keep[:, None]), peak, total
