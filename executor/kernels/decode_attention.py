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

# Kernels take what they need one by one, and are long.
# ruff: noqa: PLR0913, PLR0917

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from executor.kernels.codes import (
    bytes_of_words,
    halves_of_bytes,
    nibbles_of_words,
    number,
    offset_of,
)
from executor.kernels.common import (
    BIASED,
    FORMS,
    LIFT,
    LIFT_Q,
    LOG2E,
    NEVER,
    Form,
    aligned,
    blocks_of,
    dims_of,
    dot,
    padded_half,
    reach_of,
    relative_bias,
    see,
    token_scales,
)
from executor.kernels.registry import Entry
from executor.kernels.tiles import capability, operand, power_of_two
from executor.kv.layout import KVLayout
from executor.step import DecodeItems

TILES: dict[int, dict[str, int]] = {
    80: {"tile": 128, "byte_tile": 64, "num_warps": 4, "num_stages": 2},
    90: {"tile": 128, "byte_tile": 64, "num_warps": 4, "num_stages": 2},
}
"""Per architecture; tokens of a tile of 16 and of 8 bits (a tile of 4 bits is one block)."""
CODE_STAGES = 5
"""Stages of the loops over codes: two turns ahead, since the offset of a block is loaded first."""
MERGE = {"tile": 16, "num_warps": 4}
"""Items that a program of the merge takes at a time."""


@triton.jit
def _position_bias(bias, heads, starts, block, slot, position, reach, there):
    key = tl.load(starts + block, mask=there, other=0) + slot
    return relative_bias(bias, heads[:, None], (key - position)[None, :], reach, there[None, :])


@triton.jit
def _wide_item(
    queries, arena, unit, offsets, starts, tokens, scale, bias, heads, member, position, reach,
    sums,
    D: tl.constexpr, T: tl.constexpr, M: tl.constexpr, PAD: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """An item of 16 bits: `sums` gets its sum; returns the largest score and the total."""
    DTYPE: tl.constexpr = queries.dtype.element_ty
    columns = tl.arange(0, 2 * PAD)
    dims = dims_of(columns, D // 2, PAD)
    inside = (columns % PAD < D // 2)[None, :]
    rows = tl.arange(0, M)[:, None] * D
    q = tl.load(queries + rows + dims[None, :], mask=member[:, None] & inside, other=0.0)
    arena += unit * (2 * T * D * DTYPE.primitive_bitwidth // 8)
    peak = tl.full([M], NEVER, tl.float32)
    totals = tl.zeros([M, TILE], tl.float32)
    acc = tl.zeros([M, 2 * PAD], tl.float32)
    for begin in range(0, tokens, TILE):
        token = begin + tl.arange(0, TILE)
        there = token < tokens
        slot = token % T
        keys = blocks_of(arena, offsets, token, tokens, T).to(tl.pointer_type(DTYPE))
        keys = keys[:, None] + (slot[:, None] * D + dims[None, :])
        k = tl.load(keys, mask=there[:, None] & inside, other=0.0)
        v = tl.load(keys + T * D, mask=there[:, None] & inside, other=0.0)
        scores = dot(q, tl.trans(k), tl.zeros([M, TILE], tl.float32)) * scale
        if bias is not None:
            scores += _position_bias(bias, heads, starts, token // T, slot, position, reach, there)
        scores = tl.where(there[None, :], scores, NEVER)
        weights, keep, peak = see(scores, 1.0, peak)
        totals = totals * keep[:, None] + weights
        acc = dot(weights.to(DTYPE), v, acc * keep[:, None])
    tl.store(sums + dims[None, :], acc, mask=member[:, None] & inside)
    return peak, tl.sum(totals, 1)


@triton.jit
def _byte_item(
    queries, arena, unit, offsets, starts, tokens, scale, bias, heads, member, position, reach,
    sums,
    D: tl.constexpr, T: tl.constexpr, M: tl.constexpr, PAD: tl.constexpr, TILE: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """The same for an item of 8 bits.

    V is read in pairs of dimensions, even ones low and odd ones high in 16 bits: elements of 16
    bits can be transposed on their way to the tensor cores, those of 8 bits cannot. The scales of
    a tile are loaded one turn ahead by hand: each thread has one, too few for an asynchronous copy.
    """
    DTYPE: tl.constexpr = queries.dtype.element_ty
    HALF: tl.constexpr = D // 2
    columns = tl.arange(0, 2 * PAD)
    dims = dims_of(columns, HALF, PAD)
    inside = (columns % PAD < HALF)[None, :]
    pairs = tl.arange(0, PAD)
    paired = (pairs < HALF)[None, :]
    rows = tl.arange(0, M)[:, None] * D
    q = tl.load(queries + rows + dims[None, :], mask=member[:, None] & inside, other=0.0)
    arena += unit * (2 * T * D + 4 * T)
    peak = tl.full([M], NEVER, tl.float32)
    totals = tl.zeros([M, TILE], tl.float32)
    even = tl.zeros([M, PAD], tl.float32)
    odd = tl.zeros([M, PAD], tl.float32)
    next_k, next_v = token_scales(arena, offsets, tl.arange(0, TILE), tokens, D, T)
    for begin in tl.range(0, tokens, TILE, num_stages=STAGES):
        token = begin + tl.arange(0, TILE)
        there = token < tokens
        slot = token % T
        codes = blocks_of(arena, offsets, token, tokens, T)
        keys = codes.to(tl.pointer_type(tl.int8))[:, None] + (slot[:, None] * D + dims[None, :])
        k = tl.load(keys, mask=there[:, None] & inside, other=0)
        values = (codes + T * D).to(tl.pointer_type(tl.int16))[:, None]
        values += slot[:, None] * HALF + pairs[None, :]
        v = tl.load(values, mask=there[:, None] & paired, other=0)
        k_scale = next_k.to(tl.float32) * scale
        v_scale = next_v.to(tl.float32) * LIFT
        scores = dot(q, tl.trans(number(k, DTYPE)), tl.zeros([M, TILE], tl.float32))
        scores = scores * k_scale[None, :]
        if bias is not None:
            scores += _position_bias(bias, heads, starts, token // T, slot, position, reach, there)
        scores = tl.where(there[None, :], scores, NEVER)
        weights, keep, peak = see(scores, 1.0, peak)
        totals = totals * keep[:, None] + weights
        weights = (weights * v_scale[None, :]).to(DTYPE)
        v_even, v_odd = bytes_of_words(v, DTYPE)
        even = dot(weights, v_even, even * keep[:, None])
        odd = dot(weights, v_odd, odd * keep[:, None])
        next_k, next_v = token_scales(arena, offsets, token + TILE, tokens, D, T)
    out = sums + 2 * pairs[None, :]
    tl.store(out, even * (1.0 / LIFT), mask=member[:, None] & paired)
    tl.store(out + 1, odd * (1.0 / LIFT), mask=member[:, None] & paired)
    return peak, tl.sum(totals, 1)


@triton.jit
def _value_scales(arena, offsets, block, tokens, slot, D: tl.constexpr, T: tl.constexpr):
    """Scales and minima of V of a block of 4 bits, float16."""
    there = block * T + slot < tokens
    offset = tl.load(offsets + block, mask=block * T < tokens, other=0)
    meta = (arena + aligned(offset) + T * D + 4 * D).to(tl.pointer_type(tl.float16)) + slot
    v_scale = tl.load(meta, mask=there, other=0.0)
    return v_scale, tl.load(meta + T, mask=there, other=0.0)


@triton.jit
def _repeat(x, M: tl.constexpr):
    """The rows of `x` over and over, M in all."""
    GROUP: tl.constexpr = x.shape[0]
    WIDTH: tl.constexpr = x.shape[1]
    if GROUP == M:
        return x
    else:
        return tl.reshape(tl.broadcast_to(x[None, :, :], (M // GROUP, GROUP, WIDTH)), (M, WIDTH))


@triton.jit
def _nibble_item(
    queries, arena, unit, offsets, starts, tokens, scale, bias, heads, member, position, reach,
    sums,
    D: tl.constexpr, T: tl.constexpr, M: tl.constexpr, GROUP: tl.constexpr, PAD: tl.constexpr,
    WORDS: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The same for an item of 4 bits, a block at a time.

    K is taken by halves of the head, V by the four nibbles of 16-bit words. Scaled queries are
    computed for ROWS heads, the group padded to a power of two (4 at least, with which fewer
    registers are spent), and repeated to fill M rows.
    """
    DTYPE: tl.constexpr = queries.dtype.element_ty
    HALF: tl.constexpr = D // 2
    dims = tl.arange(0, PAD)
    inside = dims < HALF
    words = tl.arange(0, WORDS)
    row = tl.arange(0, ROWS)[:, None]
    mask = (row < GROUP) & inside[None, :]
    queries += row * D + dims[None, :]
    low = tl.load(queries, mask=mask, other=0.0).to(tl.float32) * LIFT_Q
    high = tl.load(queries + HALF, mask=mask, other=0.0).to(tl.float32) * LIFT_Q
    arena += unit * (T * D + 4 * (D + T))
    scale = scale * (1.0 / LIFT_Q)
    slot = tl.arange(0, T)
    peak = tl.full([M], NEVER, tl.float32)
    totals = tl.zeros([M, T], tl.float32)
    least = tl.zeros([M, T], tl.float32)
    acc_0 = tl.zeros([M, WORDS], tl.float32)
    acc_1 = tl.zeros([M, WORDS], tl.float32)
    acc_2 = tl.zeros([M, WORDS], tl.float32)
    acc_3 = tl.zeros([M, WORDS], tl.float32)
    next_scale, next_min = _value_scales(arena, offsets, 0, tokens, slot, D, T)
    for block in tl.range(0, tl.cdiv(tokens, T), num_stages=STAGES):
        there = block * T + slot < tokens
        codes = arena + aligned(tl.load(offsets + block))
        keys = codes + (slot[:, None] * HALF + dims[None, :])
        k = tl.load(keys, mask=there[:, None] & inside[None, :], other=0)
        values = (codes + T * HALF).to(tl.pointer_type(tl.uint16))
        values += slot[:, None] * (D // 4) + words[None, :]
        v = tl.load(values, mask=there[:, None] & (words < D // 4)[None, :], other=0)
        meta = (codes + T * D).to(tl.pointer_type(tl.float16))
        scale_low = tl.load(meta + dims, mask=inside, other=0.0).to(tl.float32)
        scale_high = tl.load(meta + HALF + dims, mask=inside, other=0.0).to(tl.float32)
        min_low = tl.load(meta + D + dims, mask=inside, other=0.0).to(tl.float32)
        min_high = tl.load(meta + D + HALF + dims, mask=inside, other=0.0).to(tl.float32)
        v_scale = next_scale.to(tl.float32) * LIFT
        v_min = next_min.to(tl.float32) * LIFT

        q_low = _repeat((low * scale_low[None, :]).to(DTYPE), M)
        q_high = _repeat((high * scale_high[None, :]).to(DTYPE), M)
        k_low, k_high = halves_of_bytes(k, DTYPE)
        scores = dot(q_low, tl.trans(k_low), tl.zeros([M, T], tl.float32))
        scores = dot(q_high, tl.trans(k_high), scores)
        constant = tl.sum(low * min_low[None, :] + high * min_high[None, :], 1)
        scores = (scores + _repeat(constant[:, None], M)) * scale
        if bias is not None:
            block_of = block + tl.zeros([T], tl.int32)
            scores += _position_bias(bias, heads, starts, block_of, slot, position, reach, there)
        scores = tl.where(there[None, :], scores, NEVER)
        weights, keep, peak = see(scores, 1.0, peak)
        totals = totals * keep[:, None] + weights
        scaled = (weights * v_scale[None, :]).to(DTYPE)
        # What rounding `scaled` does to the offset has to be taken back too.
        least = least * keep[:, None] + weights * v_min[None, :]
        least -= operand(scaled).to(tl.float32) * offset_of(DTYPE)
        v_0, v_1, v_2, v_3 = nibbles_of_words(v, DTYPE)
        acc_0 = dot(scaled, v_0, acc_0 * keep[:, None])
        acc_1 = dot(scaled, v_1, acc_1 * keep[:, None])
        acc_2 = dot(scaled, v_2, acc_2 * keep[:, None])
        acc_3 = dot(scaled, v_3, acc_3 * keep[:, None])
        next_scale, next_min = _value_scales(arena, offsets, block + 1, tokens, slot, D, T)
    out = sums + 2 * words[None, :]
    mask = member[:, None] & (words < D // 4)[None, :]
    shift = tl.sum(least, 1)[:, None]
    tl.store(out, (acc_0 + shift) * (1.0 / LIFT), mask=mask)
    tl.store(out + HALF, (acc_1 + shift) * (1.0 / LIFT), mask=mask)
    tl.store(out + 1, (acc_2 + shift) * (1.0 / LIFT), mask=mask)
    tl.store(out + HALF + 1, (acc_3 + shift) * (1.0 / LIFT), mask=mask)
    return peak, tl.sum(totals, 1)


@triton.jit(do_not_specialize=["layer", "reach"])
def decode_items(
    q, arena, sums, peaks, totals, bits, rows, first, tokens, positions, offsets, starts, bias,
    scale, q_stride, layer, reach,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, T: tl.constexpr,
    M: tl.constexpr, PAD: tl.constexpr, WORDS: tl.constexpr, ROWS: tl.constexpr,
    TILE: tl.constexpr, BYTE_TILE: tl.constexpr, STAGES: tl.constexpr,
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
    queries = q + row.to(tl.int64) * q_stride + kv_head * (GROUP * D)
    sums += state[:, None] * D
    unit = layer * KV_HEADS + kv_head
    offsets += entry
    starts += entry
    scale = scale * LOG2E
    if precision == 4:
        peak, total = _nibble_item(
            queries, arena, unit, offsets, starts, keys, scale, bias, heads, member, position,
            reach, sums, D, T, M, GROUP, PAD, WORDS, ROWS, STAGES,
        )  # fmt: skip
    elif precision == 8:
        peak, total = _byte_item(
            queries, arena, unit, offsets, starts, keys, scale, bias, heads, member, position,
            reach, sums, D, T, M, PAD, BYTE_TILE, STAGES,
        )  # fmt: skip
    else:
        peak, total = _wide_item(
            queries, arena, unit, offsets, starts, keys, scale, bias, heads, member, position,
            reach, sums, D, T, M, PAD, TILE,
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
            **constants(layout, heads, tiles, bias is not None),
            num_warps=tiles["num_warps"], num_stages=tiles["num_stages"],
        )  # fmt: skip
    merge_items[(rows, heads)](
        sums, peaks[0], peaks[1], items.row_items, out,
        heads, head_dim, power_of_two(head_dim), MERGE["tile"],
        num_warps=MERGE["num_warps"],
    )  # fmt: skip
    return out


def constants(
    layout: KVLayout, heads: int, tiles: Mapping[str, int], biased: bool
) -> dict[str, int]:
    """Compile-time arguments of `decode_items`; a bias costs registers, so tiles are smaller."""
    group = heads // layout.kv_heads
    return {
        "KV_HEADS": layout.kv_heads,
        "GROUP": group,
        "D": layout.head_dim,
        "T": layout.block_tokens,
        "M": max(16, power_of_two(group)),
        "PAD": padded_half(layout.head_dim),
        "WORDS": max(16, power_of_two(layout.head_dim // 4)),
        "ROWS": max(4, power_of_two(group)),
        "TILE": tiles["byte_tile" if biased else "tile"],
        "BYTE_TILE": tiles["byte_tile"],
        "STAGES": 3 if biased else CODE_STAGES,
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
    constant: dict[str, Any] = {**constants(form.layout, form.heads, tiles, biased)}
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
