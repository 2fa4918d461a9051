"""Attention of chunks of prompts over blocks of mixed precision.

A program takes a tile of rows of one chunk and one query head, and goes over the chunk's blocks of
16, then 8, then 4 bits, so nothing has to be merged. The chunk's own keys are the last ones of the
16-bit range, in order; a row sees all keys before them and those up to itself. So the causal limit
is one on the index of a key in that range: tiles that every row sees run without a mask, tiles
that no row sees are left out, and the rest is masked.

Tensor cores of sm_90 work while other instructions run, until something asks for their results.
`_attend_tokens` asks for the scores of a tile at once, and the next scores wait for the product
with its values, so that softmax and products take turns; `prefill_lagging` has the other order.
"""

# Kernels take what they need one by one.
# ruff: noqa: PLR0913, PLR0917

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from executor.kernels.codes import bytes_of_words, halves_of_bytes
from executor.kernels.common import (
    BIASED,
    FORMS,
    LIFT,
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
)
from executor.kernels.prefill_lagging import attend_lagging
from executor.kernels.registry import Entry
from executor.kernels.tiles import capability
from executor.kernels.words import half, halves_of
from executor.kv.layout import KVLayout
from executor.steps.step import PrefillChunks

TILES: dict[int, dict[int, dict[str, int]]] = {
    80: {64: {"keys": 64, "byte_keys": 32, "num_warps": 8, "num_stages": 2, "lag": 0}},
    90: {
        64: {"keys": 64, "byte_keys": 64, "num_warps": 4, "num_stages": 2, "lag": 0},
        128: {"keys": 128, "byte_keys": 64, "num_warps": 8, "num_stages": 2, "lag": 0},
    },
}
"""Per architecture and rows of a tile; keys of a tile of 16 and of 8 bits (of 4: one block), and
whether values lag behind by a tile (`attend_lagging`).

On 80 the tiles of keys of each warp are operands in registers, and 128 rows would not fit beside.
"""
AHEAD: dict[str, int] = {"num_stages": 5}
"""Prepared for 90: copies that are two tiles of keys ahead. With two to four stages Triton makes
them one tile ahead, asks for them behind the products of a tile and waits at the next one's start;
two of five stages go to the addresses."""
LAGGING: dict[int, dict[str, int]] = {
    64: {"keys": 64, "byte_keys": 64, "num_warps": 4, "num_stages": 2, "lag": 1},
    128: {"keys": 64, "byte_keys": 64, "num_warps": 8, "num_stages": 2, "lag": 1},
}
"""What else would stand in the table for 90 if it is faster, which no device has said yet.

With 128 keys the weights of one tile, the scores of the next and the sum do not fit 255 registers.
"""


@triton.jit
def _add_bias(scores, bias, starts, block, slot, there, position, reach):
    key = tl.load(starts + block, mask=there, other=0) + slot
    distance = key[None, :] - position[:, None]
    return scores + relative_bias(bias, 0, distance, reach, there[None, :])


@triton.jit
def _scales_of(arena, offsets, begin, there, end, D: tl.constexpr, T: tl.constexpr):
    """Scales of K and of V of tokens from `begin` on of 8 bits, float32; 0 where none is `there`.

    An asynchronous copy takes four bytes at the least, so they are loaded as words of two tokens.
    """
    pair = begin + 2 * tl.arange(0, there.shape[0] // 2)
    meta = blocks_of(arena, offsets, pair, end, T) + 2 * T * D
    words = meta.to(tl.pointer_type(tl.int32)) + pair % T // 2
    k_scale = _of_both(tl.load(words, mask=pair < end, other=0), there)
    return k_scale, _of_both(tl.load(words + T // 2, mask=pair < end, other=0), there)


@triton.jit
def _of_both(words, there):
    """A number of each token out of words of two."""
    low, high = halves_of(words, tl.float32)
    return tl.where(there, tl.reshape(tl.join(low, high), there.shape), 0.0)


@triton.jit
def _signed(words, DTYPE: tl.constexpr):
    """Pairs of 8-bit codes [tokens, PAD] as codes [tokens, 2 * PAD]."""
    low, high = bytes_of_words(words, DTYPE)
    return tl.reshape(tl.join(low, high), (words.shape[0], 2 * words.shape[1]))


@triton.jit
def _attend_tokens(
    query, arena, offsets, starts, begin, end, limit, acc, peak, total, scale, bias, position,
    reach,
    D: tl.constexpr, T: tl.constexpr, PAD: tl.constexpr, BN: tl.constexpr,
    BITS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Keys [begin, end) of 16 or 8 bits; with `MASKED` a row sees those before its `limit`.

    Without, the keys are a whole number of tiles. Codes are read two at a time.
    """
    DTYPE: tl.constexpr = query.dtype
    element: tl.constexpr = DTYPE if BITS == 16 else tl.int16
    PER_ELEMENT: tl.constexpr = 16 // BITS
    WIDTH: tl.constexpr = D // PER_ELEMENT
    HALF_PAD: tl.constexpr = PAD // PER_ELEMENT
    columns = tl.arange(0, 2 * HALF_PAD)
    elements = dims_of(columns, WIDTH // 2, HALF_PAD)
    inside = (columns % HALF_PAD < WIDTH // 2)[None, :]
    if BITS == 8:
        acc = acc * LIFT
    for start in range(begin, end, BN):
        key = start + tl.arange(0, BN)
        there = key < end
        slot = key % T
        unit = blocks_of(arena, offsets, key, end, T)
        mask = inside & there[:, None] if MASKED else inside
        keys = unit.to(tl.pointer_type(element))[:, None] + (
            slot[:, None] * WIDTH + elements[None, :]
        )
        k = tl.load(keys, mask=mask, other=0)
        v = tl.load(keys + T * WIDTH, mask=mask, other=0)
        if BITS == 8:
            k_scale, v_scale = _scales_of(arena, offsets, start, there, end, D, T)
            v_scale *= LIFT
            k = _signed(k, DTYPE)
        scores = dot(query, tl.trans(k), tl.zeros([query.shape[0], BN], tl.float32))
        if BITS == 8:
            scores = scores * k_scale[None, :]
        if bias is not None:
            scores = _add_bias(scores * scale, bias, starts, key // T, slot, there, position, reach)
        if MASKED:
            scores = tl.where(key[None, :] < limit[:, None], scores, NEVER)
        weights, keep, peak = see(scores, scale if bias is None else 1.0, peak)
        total = total * keep + tl.sum(weights, 1)
        if BITS == 8:
            weights = weights * v_scale[None, :]
            v = _signed(v, DTYPE)
        acc = dot(weights.to(DTYPE), v, acc * keep[:, None])
    if BITS == 8:
        acc = acc * (1.0 / LIFT)
    return acc, peak, total


@triton.jit
def _values(codes, scale_low, scale_high, min_low, min_high, DTYPE: tl.constexpr):
    """4-bit codes [tokens, PAD] as values [tokens, 2 * PAD]."""
    low, high = halves_of_bytes(codes, DTYPE)
    low = low.to(tl.float32) * scale_low + min_low
    high = high.to(tl.float32) * scale_high + min_high
    pair = tl.permute(tl.join(low.to(DTYPE), high.to(DTYPE)), (0, 2, 1))
    return tl.reshape(pair, (codes.shape[0], 2 * codes.shape[1]))


@triton.jit
def _of_token(numbers, slot, there):
    """A float16 number of each token of a block, float32; 0 where there is none.

    Each token loads a word of two: wide enough for an asynchronous copy, and in its place at once.
    """
    pairs = tl.load(numbers.to(tl.pointer_type(tl.int32)) + slot // 2, mask=there, other=0)
    return half(pairs >> (slot % 2 * 16)).to(tl.float32)


@triton.jit
def _attend_channels(
    query, arena, offsets, starts, end, acc, peak, total, scale, bias, position, reach,
    D: tl.constexpr, T: tl.constexpr, PAD: tl.constexpr,
):  # fmt: skip
    """All keys of 4 bits, a block at a time, dequantised: here a tile has more rows than keys."""
    DTYPE: tl.constexpr = query.dtype
    HALF: tl.constexpr = D // 2
    dims = tl.arange(0, PAD)
    inside = dims < HALF
    slot = tl.arange(0, T)
    for block in range(0, tl.cdiv(end, T)):
        there = block * T + slot < end
        unit = arena + aligned(tl.load(offsets + block))
        mask = there[:, None] & inside[None, :]
        codes = unit + (slot[:, None] * HALF + dims[None, :])
        k = tl.load(codes, mask=mask, other=0)
        v = tl.load(codes + T * HALF, mask=mask, other=0)
        meta = (unit + T * D).to(tl.pointer_type(tl.float16))
        scale_low = tl.load(meta + dims, mask=inside, other=0.0).to(tl.float32)[None, :]
        scale_high = tl.load(meta + HALF + dims, mask=inside, other=0.0).to(tl.float32)[None, :]
        min_low = tl.load(meta + D + dims, mask=inside, other=0.0).to(tl.float32)[None, :]
        min_high = tl.load(meta + D + HALF + dims, mask=inside, other=0.0).to(tl.float32)[None, :]
        v_scale = _of_token(unit + T * D + 4 * D, slot, there)[:, None]
        v_min = _of_token(unit + T * D + 4 * D + 2 * T, slot, there)[:, None]
        k = _values(k, scale_low, scale_high, min_low, min_high, DTYPE)
        scores = dot(query, tl.trans(k), tl.zeros([query.shape[0], T], tl.float32))
        if bias is not None:
            block_of = block + tl.zeros([T], tl.int32)
            scores = _add_bias(scores * scale, bias, starts, block_of, slot, there, position, reach)
        scores = tl.where(there[None, :], scores, NEVER)
        weights, keep, peak = see(scores, scale if bias is None else 1.0, peak)
        total = total * keep + tl.sum(weights, 1)
        v = _values(v, v_scale, v_scale, v_min, v_min, DTYPE)
        acc = dot(weights.to(DTYPE), v, acc * keep[:, None])
    return acc, peak, total


@triton.jit(do_not_specialize=["layer", "reach"])
def prefill_tiles(
    q, arena, out, first_row, context, first, tokens, offsets, starts, bias,
    scale, q_stride, layer, reach,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, T: tl.constexpr,
    PAD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BN_8: tl.constexpr,
    LAG: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """One query head and BM rows of one chunk."""
    head = tl.program_id(0)
    # The last rows see most keys, so they start first.
    tile = (tl.num_programs(1) - 1 - tl.program_id(1)) * BM
    chunk = tl.program_id(2)
    begin = tl.load(first_row + chunk)
    rows = tl.load(first_row + chunk + 1) - begin
    if tile >= rows:
        return
    HEADS: tl.constexpr = KV_HEADS * GROUP
    HALF: tl.constexpr = D // 2
    DTYPE: tl.constexpr = q.dtype.element_ty
    kv_head = layer * KV_HEADS + head // GROUP
    row = tile + tl.arange(0, BM)
    position = tl.load(context + chunk) + row
    columns = tl.arange(0, 2 * PAD)
    dims = dims_of(columns, HALF, PAD)
    mask = (row < rows)[:, None] & (columns % PAD < HALF)[None, :]
    wide = (begin + row).to(tl.int64)[:, None]
    query = tl.load(q + wide * q_stride + head * D + dims[None, :], mask=mask, other=0.0)
    if bias is not None:
        bias += head * (2 * reach + 1)
    scale = scale * LOG2E
    acc = tl.zeros([BM, 2 * PAD], tl.float32)
    peak = tl.full([BM], NEVER, tl.float32)
    total = tl.zeros([BM], tl.float32)

    keys = tl.load(tokens + 3 * chunk)
    entry = tl.load(first + 3 * chunk)
    if CAUSAL:
        earlier = keys - rows
        end = tl.minimum(earlier + tile + BM, keys)
        seen_by_all = tl.minimum(earlier + tile + 1, end) // BN * BN
        limit = earlier + row + 1
    else:
        end = keys
        seen_by_all = keys // BN * BN
        limit = keys + tl.zeros([BM], tl.int32)
    UNIT_16: tl.constexpr = 2 * T * D * DTYPE.primitive_bitwidth // 8
    unit = arena + kv_head * UNIT_16
    if LAG and bias is None:
        acc, peak, total = attend_lagging(
            query, unit, offsets + entry, seen_by_all, acc, peak, total, scale, D, T, PAD, BN
        )
    else:
        acc, peak, total = _attend_tokens(
            query, unit, offsets + entry, starts + entry, 0, seen_by_all, limit, acc, peak, total,
            scale, bias, position, reach, D, T, PAD, BN, 16, False,
        )  # fmt: skip
    acc, peak, total = _attend_tokens(
        query, unit, offsets + entry, starts + entry, seen_by_all, end, limit, acc, peak, total,
        scale, bias, position, reach, D, T, PAD, BN, 16, True,
    )  # fmt: skip

    keys = tl.load(tokens + 3 * chunk + 1)
    entry = tl.load(first + 3 * chunk + 1)
    UNIT_8: tl.constexpr = 2 * T * D + 4 * T
    acc, peak, total = _attend_tokens(
        query, arena + kv_head * UNIT_8, offsets + entry, starts + entry, 0, keys,
        keys + tl.zeros([BM], tl.int32), acc, peak, total,
        scale, bias, position, reach, D, T, PAD, BN_8, 8, True,
    )  # fmt: skip

    keys = tl.load(tokens + 3 * chunk + 2)
    entry = tl.load(first + 3 * chunk + 2)
    UNIT_4: tl.constexpr = T * D + 4 * (D + T)
    acc, peak, total = _attend_channels(
        query, arena + kv_head * UNIT_4, offsets + entry, starts + entry, keys,
        acc, peak, total, scale, bias, position, reach, D, T, PAD,
    )  # fmt: skip

    acc = tl.where((total > 0)[:, None], acc / tl.where(total > 0, total, 1.0)[:, None], 0.0)
    target = out + (wide * HEADS + head) * D + dims[None, :]
    tl.store(target, acc.to(out.dtype.element_ty), mask=mask)


def prefill_attention(
    q: Tensor,
    arena: Tensor,
    layout: KVLayout,
    layer: int,
    chunks: PrefillChunks,
    scale: float,
    bias: Tensor | None = None,
    causal: bool = True,
) -> Tensor:
    """See `kernels.ops`. The grid follows `longest`, which in a CUDA graph is what it holds."""
    rows, heads, head_dim = q.shape
    fresh = q.new_zeros if chunks.whole_step else q.new_empty
    out = fresh((rows, heads, head_dim))
    count = chunks.context.numel()
    if not rows or not count:
        return out
    sizes = TILES[capability(q.device)]
    tile_rows = max(sizes) if chunks.longest > 64 else 64
    tiles = sizes[tile_rows]
    prefill_tiles[(heads, triton.cdiv(chunks.longest, tile_rows), count)](
        q, arena, out, chunks.first_row, chunks.context, chunks.first, chunks.tokens,
        chunks.blocks.offsets, chunks.blocks.positions, bias,
        scale, q.stride(0), layer, reach_of(bias),
        **constants(layout, heads, tile_rows, tiles), CAUSAL=causal,
        num_warps=tiles["num_warps"], num_stages=tiles["num_stages"],
    )  # fmt: skip
    return out


def constants(
    layout: KVLayout, heads: int, tile_rows: int, tiles: Mapping[str, int]
) -> dict[str, int]:
    """Compile-time arguments of `prefill_tiles`, `CAUSAL` left out."""
    return {
        "KV_HEADS": layout.kv_heads,
        "GROUP": heads // layout.kv_heads,
        "D": layout.head_dim,
        "T": layout.block_tokens,
        "PAD": padded_half(layout.head_dim),
        "BM": tile_rows,
        "BN": tiles["keys"],
        "BN_8": tiles["byte_keys"],
        "LAG": tiles["lag"],
    }


def entries() -> list[Entry]:
    """Both tile sizes of every form, a decoder's attention to an encoder, and what may come."""
    found = []
    for chip, sizes in TILES.items():
        for rows, tiles in sizes.items():
            found += [_entry(chip, form, rows, tiles) for form in FORMS]
        wide = max(sizes)
        found.append(_entry(chip, BIASED, wide, sizes[wide], biased=True))
        found.append(_entry(chip, BIASED, 64, sizes[64], causal=False))
    for rows, tiles in LAGGING.items():
        found += [_entry(90, form, rows, tiles) for form in FORMS]
    for rows, tiles in TILES[90].items():
        found += [_entry(90, form, rows, tiles | AHEAD) for form in FORMS]
    found.append(_entry(90, FORMS[0], 128, LAGGING[128] | AHEAD))
    return found


def _entry(
    chip: int,
    form: Form,
    rows: int,
    tiles: Mapping[str, int],
    *,
    biased: bool = False,
    causal: bool = True,
) -> Entry:
    pointers = dict.fromkeys(("first_row", "context", "first", "tokens", "starts"), "*i32")
    pointers |= {"q": "*bf16", "out": "*bf16", "arena": "*u8", "offsets": "*i64"}
    constant: dict[str, Any] = {**constants(form.layout, form.heads, rows, tiles)}
    constant["CAUSAL"] = causal
    if biased:
        pointers["bias"] = "*fp32"
    else:
        constant["bias"] = None
    kind = f"{'' if causal else ' not causal'}{' biased' if biased else ''}"
    kind += " lagging" if tiles["lag"] else ""
    kind += " ahead" if tiles["num_stages"] == AHEAD["num_stages"] else ""
    return Entry(
        name=f"prefill_tiles of {rows} rows, {form}{kind}",
        kernel=prefill_tiles,
        capability=chip,
        types=pointers | {"scale": "fp32", "q_stride": "i32", "layer": "i32", "reach": "i32"},
        constants=constant,
        aligned=(*pointers, "q_stride"),
        options={key: tiles[key] for key in ("num_warps", "num_stages")},
        dot=True,
        # With 128 keys it is at 255 registers: by some versions of Triton four do not fit.
        max_stack_bytes=16 if tiles["num_stages"] == AHEAD["num_stages"] else 0,
        grouped=bool(tiles["lag"]),
        pipelined=True,
    )
