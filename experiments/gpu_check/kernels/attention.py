"""Attention of decodes and of chunks, over blocks of every precision."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from executor.calibration.cases import RandomArena
from executor.steps.inputs import ChunkRows, DecodeRow, build_inputs
from experiments.gpu_check.checks import Context, Result
from experiments.gpu_check.kernels import reference
from experiments.gpu_check.kernels.cases import MIXES, Shares, chunk_table, layout_of
from experiments.gpu_check.setting import device_of, ops_of, poison, randn, tolerance, verdict


def decode_attention(context: Context, shape: str) -> Result:
    """All precisions and mixes, lengths at block edges, long ones over many items, padding."""
    errors: dict[str, float] = {}
    for mix, shares in MIXES.items():
        for item_blocks in (1, 8) if context.tiny else (4, 16):
            name = f"{mix} items of {item_blocks}"
            errors[name] = _decode_error(context, shape, shares, item_blocks)
    return verdict(errors, tolerance(context))


def _decode_error(context: Context, shape: str, shares: Shares, item_blocks: int) -> float:
    heads, layout = layout_of(context, shape)
    tokens = layout.block_tokens
    source = RandomArena(layout, 40, device_of(context))
    long = 4 * tokens + 3 if context.tiny else 45 * tokens + 7
    rows = [
        DecodeRow(source.table(length, shares), length, 1)
        for length in (1, tokens - 1, tokens, tokens + 1, 5 * tokens, long)
    ]
    step = build_inputs(
        rows,
        [],
        layout,
        source.device,
        item_blocks=item_blocks,
        pad_rows=8,
        pad_items=len(rows) * 4 + (0 if context.tiny else 64),
    )
    assert step.decode is not None
    q, scale = randn(context, 8, heads, layout.head_dim), layout.head_dim**-0.5
    poison(context)
    found = ops_of(context).decode_attention(q, source.arena, layout, 1, step.decode, scale)
    if not bool((found[len(rows) :] == 0).all()):
        return float("inf")
    wanted = reference.decode_attention(q, source.arena, layout, 1, step.decode, scale)
    return worst_row(found[: len(rows)], wanted[: len(rows)])


def worst_row(found: Tensor, wanted: Tensor) -> float:
    """The largest relative error of a row: a wrong short row must not hide behind long ones."""
    pairs = zip(found, wanted, strict=True)
    return max((reference.relative_error(a, b) for a, b in pairs), default=0.0)


def prefill_attention(context: Context, shape: str) -> Result:
    """Chunks with and without context in all precisions, shorter and longer than a tile."""
    errors: dict[str, float] = {}
    for mix, shares in MIXES.items():
        errors[mix] = prefill_case_error(context, shape, shares)
    return verdict(errors, tolerance(context))


def prefill_case_error(context: Context, shape: str, shares: Shares) -> float:
    """The worst relative error of a chunk, of one mix of precisions."""
    heads, layout = layout_of(context, shape)
    tokens = layout.block_tokens
    source = RandomArena(layout, 40, device_of(context))
    sizes: tuple[tuple[int, int], ...] = ((1, 0), (tokens + 3, 0), (5, 2 * tokens + 1))
    if not context.tiny:
        sizes = ((1, 0), (tokens, 0), (129, 0), (1, 4 * tokens), (300, 3 * tokens + 5), (17, 900))
    chunks = [
        ChunkRows(chunk_table(source, count, before, shares), before, [1] * count, True)
        for count, before in sizes
    ]
    step = build_inputs([], chunks, layout, source.device, item_blocks=8)
    assert step.prefill is not None
    q = randn(context, sum(count for count, _ in sizes), heads, layout.head_dim)
    poison(context)
    scale = layout.head_dim**-0.5
    found = ops_of(context).prefill_attention(q, source.arena, layout, 1, step.prefill, scale)
    wanted = reference.prefill_attention(q, source.arena, layout, 1, step.prefill, scale)
    ends = step.prefill.first_row.tolist()
    spans = [slice(a, b) for a, b in pairwise(ends)]
    return max(reference.relative_error(found[s], wanted[s]) for s in spans)
