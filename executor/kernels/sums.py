"""What kernels of matrix products share: a tile of sums, and what several programs add up to it.

Rows of weights are the left operand and rows of activations, transposed, the right one.
"""

# Kernels take what they need one by one.
# ruff: noqa: PLR0913, PLR0917

from __future__ import annotations

import triton
import triton.language as tl

from executor.kernels.early import ask_for
from executor.kernels.tiles import operand


@triton.jit
def slice_of(part, k, DEPTH: tl.constexpr, SLICES: tl.constexpr):
    """Where the share of k begins and ends that program `part` of SLICES sums up."""
    turns = tl.cdiv(tl.cdiv(k, DEPTH), SLICES)
    begin = part * turns * DEPTH
    return begin, tl.minimum(begin + turns * DEPTH, k)


@triton.jit
def ask_for_weights(
    weight, rows, begin, k, DEPTH: tl.constexpr, AHEAD: tl.constexpr, EARLY: tl.constexpr
):
    """Have the weights of AHEAD turns brought to the L2: no kernel writes weights, so they may be
    on their way before the wait.
    """
    if AHEAD:
        LINE: tl.constexpr = 1024 // weight.dtype.element_ty.primitive_bitwidth
        soon = tl.minimum(begin + tl.arange(0, AHEAD * DEPTH // LINE) * LINE, k - 1)
        ask_for(weight + rows[:, None] * k + soon[None, :], EARLY)


@triton.jit
def tile_of_sums(
    x, weight, row, rows, begin, end, m, k,
    ROWS: tl.constexpr, OUTS: tl.constexpr, DEPTH: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Sums of `weight[rows] * x[row]` over [begin, end) of k, float32 [OUTS, ROWS]; EVEN: DEPTH
    divides k. Rows from m on are 0 and are not read, which saves their traffic.
    """
    depth = tl.arange(0, DEPTH)
    weights_at = weight + rows[:, None] * k + (begin + depth)[None, :]
    x_at = x + row.to(tl.int64)[:, None] * k + (begin + depth)[None, :]
    row_there = (row < m)[:, None]
    total = tl.zeros((OUTS, ROWS), dtype=tl.float32)
    for start in range(begin, end, DEPTH):
        if EVEN:
            codes = tl.load(weights_at)
            values = tl.load(x_at, mask=row_there, other=0.0)
        else:
            inside = (depth < k - start)[None, :]
            codes = tl.load(weights_at, mask=inside, other=0)
            values = tl.load(x_at, mask=row_there & inside, other=0.0)
        values = operand(values)
        total = tl.dot(codes.to(values.dtype), tl.trans(values), total, input_precision="ieee")
        weights_at += DEPTH
        x_at += DEPTH
    return total


@triton.jit
def parts_of(parts, tile, ROWS: tl.constexpr, OUTS: tl.constexpr, SLICES: tl.constexpr):
    """Where the first of the SLICES sums of a tile is, in `parts` [tiles, SLICES, OUTS, ROWS]."""
    inner = tl.arange(0, OUTS)[:, None] * ROWS + tl.arange(0, ROWS)[None, :]
    return parts + tile.to(tl.int64) * (SLICES * OUTS * ROWS) + inner


@triton.jit
def leave(of_tile, total, part, arrived, SIZE: tl.constexpr):
    """Leave the sum of one program of a tile; how many have come before, which `arrived` counts."""
    tl.store(of_tile + part * SIZE, total)
    # All threads have stored before one of them says so.
    tl.debug_barrier()
    return tl.atomic_add(arrived, 1, sem="acq_rel")


@triton.jit
def sum_of_parts(of_tile, ROWS: tl.constexpr, OUTS: tl.constexpr, SLICES: tl.constexpr):
    """What the programs of a tile have left, in their order: it does not depend on who is last."""
    total = tl.zeros((OUTS, ROWS), dtype=tl.float32)
    for other in tl.static_range(SLICES):
        # Not from this multiprocessor's own cache, which may be behind.
        total += tl.load(of_tile + other * (OUTS * ROWS), cache_modifier=".cg")
    return total
