"""Shapes of heads and mixes of precisions that the kernels are checked with."""

from __future__ import annotations

import numpy as np

from executor.calibration.cases import RandomArena, Table
from executor.kv.layout import KVLayout
from experiments.gpu_check.checks import Context
from experiments.gpu_check.setting import dtype_of

Shares = dict[int, float]
MIXES: dict[str, Shares] = {
    "16": {},
    "8": {8: 1.0},
    "4": {4: 1.0},
    "mixed": {4: 0.3, 8: 0.4},
}
SHAPES = {
    # heads, KV heads, head dimension, tokens of a block
    "llama-8b": (32, 8, 128, 32),
    "llama-70b-rank": (8, 1, 128, 32),
    "mha-64": (12, 12, 64, 32),
    "odd-group-80": (14, 2, 80, 16),
    "blocks-64": (16, 8, 128, 64),
}


def layout_of(context: Context, shape: str) -> tuple[int, KVLayout]:
    """Query heads, and the layout of two layers, of one of `SHAPES`."""
    heads, kv_heads, head_dim, block_tokens = SHAPES[shape]
    if context.tiny:
        heads, kv_heads = 2 * heads // kv_heads, 2
    return heads, KVLayout(2, kv_heads, head_dim, block_tokens, dtype_of(context))


def chunk_table(source: RandomArena, count: int, before: int, shares: Shares) -> Table:
    """Full blocks before the chunk have `shares`; its own tokens are in blocks of 16 bits."""
    tokens = source.layout.block_tokens
    full = before // tokens * tokens
    head = source.table(full + 1, shares) if full else source.table(1)
    tail = source.table(count + before - full)
    keep = full // tokens
    return Table(
        np.concatenate([head.offsets[:keep], tail.offsets]),
        np.concatenate([head.bits[:keep], tail.bits]),
    )
