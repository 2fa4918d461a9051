"""Attention of single-token rows over work items of one precision each, and the merge of items.

A program takes one item and one KV head; the query heads that share it are the rows of its matrix
products, padded to what tensor cores take. It looks at the item's precision once and then runs one
of three loops: a branch inside the loop would cost the asynchronous copies. Every item leaves its
weighted sum of values, the largest score and the sum of weights; `merge_items` combines those of a
row. Softmax does not care for the order of keys, so a row's blocks may be grouped by precision.

Codes go into the products as they are. The scales of V, and of 8-bit K, belong to a token and
multiply its weights and scores; those of 4-bit K belong to a channel and multiply the query, once
per block, whose product with the minima is a constant of the block.
"""

# Kernels take what they need one by one.
# ruff: noqa: PLR0913, PLR0917

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from executor.kernels.common import (
    BIASED,
    FORMS,
    LIFT,
    LIFT_Q,
    LOG2E,
    NEVER,
    Form,
    aligned,
    dims_of,
    dot,
    number,
    padded_half,
    reach_of,
    relative_bias,
    see,
)
from executor.kernels.registry import Entry
from executor.kernels.tiles import capability, power_of_two
from executor.kv.layout import KVLayout
from executor.step import DecodeItems

TILES: dict[int, dict[str, int]] = {
    80: {"tile": 64, "num_warps": 4, "num_stages": 3},
    90: {"tile": 64, "num_warps": 4, "num_stages": 3},
}
"""Per architecture; tokens of a tile of 16 or 8 bits (a tile of 4 bits is one block)."""
MERGE = {"tile": 16, "num_warps": 4}
"""Items that a program of the merge takes at a time."""


@triton.jit
def _position_bias(bias, heads, starts, block, slot, position, reach, there):
    key = tl.load(starts + block, mask=there, other=0) + slot
    return relative_bias(bias, heads[:, None], (key - position)[None, :], reach, there[None, :])


@triton.jit
def _attend_tokens(
    q, arena, offsets, starts, tokens, scale, bias, heads, position, reach,
    D: tl.constexpr, T: tl.constexpr, M: tl.constexpr, PAD: tl.constexpr,
    TILE: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """An item of 16 or 8 bits: all its scales belong to tokens. Returns sum, largest, total."""
    columns = tl.arange(0, 2 * PAD)
    dims = dims_of(columns, D // 2, PAD)
    inside = columns % PAD < D // 2
    element: tl.constexpr = q.dtype if BITS == 16 else tl.int8
    largest = tl.full([M], NEVER, tl.float32)
    total = tl.zeros([M], tl.float32)
    acc = tl.zeros([M, 2 * PAD], tl.float32)
    for begin in range(0, tokens, TILE):
        token = begin + tl.arange(0, TILE)
        there = token < tokens
        slot = token % T
        unit = arena + aligned(tl.load(offsets + token // T, mask=there, other=0))
        mask = there[:, None] & inside[None, :]
        keys = unit.to(tl.pointer_type(element))[:, None] + (slot[:, None] * D + dims[None, :])
        k = tl.load(keys, mask=mask, other=0)
        v = tl.load(keys + T * D, mask=mask, other=0)
        if BITS == 8:
            scales = (unit + 2 * T * D).to(tl.pointer_type(tl.float16)) + slot
            k_scale = tl.load(scales, mask=there, other=0.0).to(tl.float32) * scale
            v_scale = tl.load(scales + T, mask=there, other=0.0).to(tl.float32) * LIFT
            k = number(k, q.dtype)
            v = number(v, q.dtype)
        scores = dot(q, tl.trans(k), tl.zeros([M, TILE], tl.float32))
        scores = scores * (k_scale[None, :] if BITS == 8 else scale)
        if bias is not None:
            scores += _position_bias(bias, heads, starts, token // T, slot, position, reach, there)
        scores = tl.where(there[None, :], scores, NEVER)
        weights, keep, largest, total = see(scores, largest, total)
        if BITS == 8:
            weights = weights * v_scale[None, :]
        acc = dot(weights.to(q.dtype), v, acc * keep[:, None])
    if BITS == 8:
        acc = acc * (1.0 / LIFT)
    return acc, largest, total


@triton.jit
def _attend_channels(
    low, high, arena, offsets, starts, tokens, scale, bias, heads, position, reach,
    D: tl.constexpr, T: tl.constexpr, M: tl.constexpr, PAD: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """An item of 4 bits, a block at a time, by halves of the head: low and high nibbles.

    `low`, `high` float32 [M, PAD]: the halves of the query. Returns the halves of the sum, largest,
    total.
    """
    HALF: tl.constexpr = D // 2
    dims = tl.arange(0, PAD)
    inside = dims < HALF
    slot = tl.arange(0, T)
    largest = tl.full([M], NEVER, tl.float32)
    total = tl.zeros([M], tl.float32)
    least = tl.zeros([M], tl.float32)
    acc_low = tl.zeros([M, PAD], tl.float32)
    acc_high = tl.zeros([M, PAD], tl.float32)
    for block in range(0, tl.cdiv(tokens, T)):
        there = block * T + slot < tokens
        unit = arena + aligned(tl.load(offsets + block))
        mask = there[:, None] & inside[None, :]
        codes = unit + (slot[:, None] * HALF + dims[None, :])
        k = tl.load(codes, mask=mask, other=0)
        v = tl.load(codes + T * HALF, mask=mask, other=0)
        meta = (unit + T * D).to(tl.pointer_type(tl.float16))
        scale_low = tl.load(meta + dims, mask=inside, other=0.0).to(tl.float32)
        scale_high = tl.load(meta + HALF + dims, mask=inside, other=0.0).to(tl.float32)
        min_low = tl.load(meta + D + dims, mask=inside, other=0.0).to(tl.float32)
        min_high = tl.load(meta + D + HALF + dims, mask=inside, other=0.0).to(tl.float32)
        v_scale = tl.load(meta + 2 * D + slot, mask=there, other=0.0).to(tl.float32)
        v_min = tl.load(meta + 2 * D + T + slot, mask=there, other=0.0).to(tl.float32)

        q_low = (low * (scale_low * LIFT_Q)[None, :]).to(DTYPE)
        q_high = (high * (scale_high * LIFT_Q)[None, :]).to(DTYPE)
        scores = dot(q_low, tl.trans(number(k & 15, DTYPE)), tl.zeros([M, T], tl.float32))
        scores = dot(q_high, tl.trans(number(k >> 4, DTYPE)), scores)
        constant = tl.sum(low * min_low[None, :] + high * min_high[None, :], 1)
        scores = (scores * (1.0 / LIFT_Q) + constant[:, None]) * scale
        if bias is not None:
            block_of = block + tl.zeros([T], tl.int32)
            scores += _position_bias(bias, heads, starts, block_of, slot, position, reach, there)
        scores = tl.where(there[None, :], scores, NEVER)
        weights, keep, largest, total = see(scores, largest, total)
        least = least * keep + tl.sum(weights * v_min[None, :], 1)
        weights = (weights * (v_scale * LIFT)[None, :]).to(DTYPE)
        acc_low = dot(weights, number(v & 15, DTYPE), acc_low * keep[:, None])
        acc_high = dot(weights, number(v >> 4, DTYPE), acc_high * keep[:, None])
    acc_low = acc_low * (1.0 / LIFT) + least[:, None]
    acc_high = acc_high * (1.0 / LIFT) + least[:, None]
    return acc_low, acc_high, largest, total


@triton.jit
def _tokens_item(
    queries, arena, unit, offsets, starts, tokens, scale, bias, heads, member, position, reach,
    sums,    D: tl.constexpr, T: tl.constexpr, M: tl.constexpr, PAD: tl.constexpr,
    TILE: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """An item of 16 or 8 bits: `sums` gets its sum; returns the largest score and the total."""
    DTYPE: tl.constexpr = queries.dtype.element_ty
    UNIT: tl.constexpr = (
        2 * T * D * DTYPE.primitive_bitwidth // 8 if BITS == 16 else 2 * T * (D + 2)
    )
    columns = tl.arange(0, 2 * PAD)
    dims = dims_of(columns, D // 2, PAD)
    mask = member[:, None] & (columns % PAD < D // 2)[None, :]
    q = tl.load(queries + dims[None, :], mask=mask, other=0.0)
    acc, peak, total = _attend_tokens(
        q, arena + unit * UNIT, offsets, starts, tokens, scale, bias, heads, position, reach,
        D, T, M, PAD, TILE, BITS,
    )  # fmt: skip
    tl.store(sums + dims[None, :], acc, mask=mask)
    return peak, total


@triton.jit
def _channels_item(
    queries, arena, unit, offsets, starts, tokens, scale, bias, heads, member, position, reach,
    sums,    D: tl.constexpr, T: tl.constexpr, M: tl.constexpr, PAD: tl.constexpr,
):  # fmt: skip
    """The same for an item of 4 bits."""
    HALF: tl.constexpr = D // 2
    UNIT: tl.constexpr = T * D + 4 * (D + T)
    dims = tl.arange(0, PAD)
    mask = member[:, None] & (dims < HALF)[None, :]
    low = tl.load(queries + dims[None, :], mask=mask, other=0.0).to(tl.float32)
    high = tl.load(queries + HALF + dims[None, :], mask=mask, other=0.0).to(tl.float32)
    acc_low, acc_high, peak, total = _attend_channels(
        low, high, arena + unit * UNIT, offsets, starts, tokens, scale, bias, heads, position,
        reach,         D, T, M, PAD, queries.dtype.element_ty,
    )  # fmt: skip
    tl.store(sums + dims[None, :], acc_low, mask=mask)
    tl.store(sums + HALF + dims[None, :], acc_high, mask=mask)
    return peak, total


@triton.jit(do_not_specialize=["layer", "reach"])
def decode_items(
    q, arena, sums, peaks, totals, bits, rows, first, tokens, positions, offsets, starts, bias,
    scale, q_stride, layer, reach,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, T: tl.constexpr,
    M: tl.constexpr, PAD: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Attention of one item and KV head.

    `sums` float32 [items, heads, D], `peaks` and `totals` float32 [items, heads].
    """
    item = tl.program_id(0) // KV_HEADS
    kv_head = tl.program_id(0) % KV_HEADS
    HEADS: tl.constexpr = KV_HEADS * GROUP
    member = tl.arange(0, M) < GROUP
    heads = kv_head * GROUP + tl.where(member, tl.arange(0, M), 0)
    state = item.to(tl.int64) * HEADS + heads
    keys = tl.load(tokens + item)
    if keys == 0:
        tl.store(peaks + state, tl.full([M], NEVER, tl.float32), mask=member)
        tl.store(totals + state, tl.zeros([M], tl.float32), mask=member)
        return
    precision = tl.load(bits + item)
    row = tl.load(rows + item)
    entry = tl.load(first + item)
    position = tl.load(positions + row)
    queries = q + row.to(tl.int64) * q_stride + heads[:, None] * D
    sums += state[:, None] * D
    unit = layer * KV_HEADS + kv_head
    offsets += entry
    starts += entry
    scale = scale * LOG2E
    if precision == 4:
        peak, total = _channels_item(
            queries, arena, unit, offsets, starts, keys, scale, bias, heads, member, position,
            reach, sums, D, T, M, PAD,
        )  # fmt: skip
    elif precision == 8:
        peak, total = _tokens_item(
            queries, arena, unit, offsets, starts, keys, scale, bias, heads, member, position,
            reach, sums, D, T, M, PAD, TILE, 8,
        )  # fmt: skip
    else:
        peak, total = _tokens_item(
            queries, arena, unit, offsets, starts, keys, scale, bias, heads, member, position,
            reach, sums, D, T, M, PAD, TILE, 16,
        )  # fmt: skip
    tl.store(peaks + state, peak, mask=member)
    tl.store(totals + state, total, mask=member)


@triton.jit
def merge_items(
    sums, peaks, totals, row_items, out,
    HEADS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Combine the items of one row and head; zeros where there are none."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    dims = tl.arange(0, WIDTH)
    inside = dims < D
    begin = tl.load(row_items + row)
    end = tl.load(row_items + row + 1)
    # One element wide, so that Triton keeps them as tensors through the loop.
    peak = tl.full([1], NEVER, tl.float32)
    total = tl.zeros([1], tl.float32)
    acc = tl.zeros([WIDTH], tl.float32)
    for start in range(begin, end, TILE):
        item = start + tl.arange(0, TILE)
        state = item.to(tl.int64) * HEADS + head
        there = item < end
        peaks_here = tl.load(peaks + state, mask=there, other=NEVER)
        totals_here = tl.load(totals + state, mask=there, other=0.0)
        # What an empty item left in `sums` is not defined.
        mask = (totals_here > 0)[:, None] & inside[None, :]
        part = tl.load(sums + state[:, None] * D + dims[None, :], mask=mask, other=0.0)
        new = tl.maximum(peak, tl.max(peaks_here, 0))
        keep = tl.exp2(peak - new)
        weights = tl.exp2(peaks_here - new)
        acc = acc * keep + tl.sum(part * weights[:, None], 0)
        total = total * keep + tl.sum(totals_here * weights, 0)
        peak = new
    result = tl.where(total > 0, acc / tl.where(total > 0, total, 1.0), 0.0)
    where = (row.to(tl.int64) * HEADS + head) * D + dims
    tl.store(out + where, result.to(out.dtype.element_ty), mask=inside)


def decode_attention(
    q: Tensor,
    arena: Tensor,
    layout: KVLayout,
    layer: int,
    items: DecodeItems,
    scale: float,
    bias: Tensor | None = None,
) -> Tensor:
    """See `kernels.ops`. Nothing launched here depends on lengths: a CUDA graph may hold it."""
    rows, heads, head_dim = q.shape
    capacity = items.bits.numel()
    sums = q.new_empty((capacity, heads, head_dim), dtype=torch.float32)
    peaks = q.new_empty((2, capacity, heads), dtype=torch.float32)
    out = q.new_empty((rows, heads, head_dim))
    if not rows:
        return out
    tiles = TILES[capability(q.device)]
    if capacity:
        decode_items[(capacity * layout.kv_heads,)](
            q, arena, sums, peaks[0], peaks[1],
            items.bits, items.rows, items.first, items.tokens, items.positions,
            items.blocks.offsets, items.blocks.positions, bias,
            scale, q.stride(0), layer, reach_of(bias),
            **constants(layout, heads, tiles["tile"]),
            num_warps=tiles["num_warps"], num_stages=tiles["num_stages"],
        )  # fmt: skip
    merge_items[(rows, heads)](
        sums, peaks[0], peaks[1], items.row_items, out,
        heads, head_dim, power_of_two(head_dim), MERGE["tile"],
        num_warps=MERGE["num_warps"],
    )  # fmt: skip
    return out


def constants(layout: KVLayout, heads: int, tile: int) -> dict[str, int]:
    """Compile-time arguments of `decode_items`."""
    group = heads // layout.kv_heads
    return {
        "KV_HEADS": layout.kv_heads,
        "GROUP": group,
        "D": layout.head_dim,
        "T": layout.block_tokens,
        "M": max(16, power_of_two(group)),
        "PAD": padded_half(layout.head_dim),
        "TILE": max(tile, layout.block_tokens),
    }


def entries() -> list[Entry]:
    """Both kernels for every form."""
    found = []
    for chip in TILES:
        found += [_decode_entry(chip, form, biased=False) for form in FORMS]
        found.append(_decode_entry(chip, BIASED, biased=True))
        found += [_merge_entry(chip, head_dim) for head_dim in (64, 80, 128)]
    return found


def _decode_entry(chip: int, form: Form, biased: bool) -> Entry:
    tiles = TILES[chip]
    pointers = dict.fromkeys(("sums", "peaks", "totals"), "*fp32")
    pointers |= dict.fromkeys(("bits", "rows", "first", "tokens", "positions", "starts"), "*i32")
    pointers |= {"q": "*bf16", "arena": "*u8", "offsets": "*i64"}
    constant: dict[str, Any] = {**constants(form.layout, form.heads, tiles["tile"])}
    if biased:
        pointers["bias"] = "*fp32"
    else:
        constant["bias"] = None
    return Entry(
        name=f"decode_items {form}{' biased' if biased else ''}",
        kernel=decode_items,
        capability=chip,
        types=pointers | {"scale": "fp32", "q_stride": "i32", "layer": "i32", "reach": "i32"},
        constants=constant,
        aligned=(*pointers, "q_stride"),
        options={key: tiles[key] for key in ("num_warps", "num_stages")},
        dot=True,
        pipelined=True,
    )


def _merge_entry(chip: int, head_dim: int) -> Entry:
    pointers = dict.fromkeys(("sums", "peaks", "totals"), "*fp32")
    pointers |= {"row_items": "*i32", "out": "*bf16"}
    return Entry(
        name=f"merge_items {head_dim}",
        kernel=merge_items,
        capability=chip,
        types=pointers,
        constants={
            "HEADS": 32, "D": head_dim, "WIDTH": power_of_two(head_dim), "TILE": MERGE["tile"],
        },
        aligned=tuple(pointers),
        options={"num_warps": MERGE["num_warps"]},
        max_registers=128,
    )  # fmt: skip
