"""Attention of one work item and KV head, by programs of one warp.

A program looks at its item's precision once and then runs one of three loops: a branch inside the
loop would cost the asynchronous copies. Keys and values are the left operands of the matrix
products and the query heads of the KV head the right one, whose least width is 8, where that of a
left one is 16. With one warp nothing has to cross shared memory between the two products but the
weights of a tile, no barrier stops it, and many programs share a multiprocessor, which hides what
each waits for. Tiles lie within one block, so that an address is one number, loaded ahead by hand.

What each token has beside its codes is two numbers of 16 bits, loaded one turn ahead by hand
(`_token_pair`), or, of 4 bits and if `COPIED`, copied as far ahead as the codes (`_copied_pair`).
Codes become operands by masks alone (`words`). The scales of V, and of 8-bit K, belong to a token
and multiply its weights and scores; those of 4-bit K belong to a channel and multiply the codes,
and the minima of the channels are one more row of keys, added to all.
"""

# Kernels take what they need one by one.
# ruff: noqa: PLR0913, PLR0917

from __future__ import annotations

import triton
import triton.language as tl

from executor.kernels.common import LOG2E, NEVER, aligned, dims_of, dot, relative_bias
from executor.kernels.early import ask_for, let_next_begin, wait_for_last
from executor.kernels.tiles import INTERPRET
from executor.kernels.words import (
    CENTRE,
    SIXTEENTH,
    UNIT,
    bytes_of,
    half,
    halves_of,
    nibbles_of,
    scaled_nibbles_of,
)

LIFT = tl.constexpr(32.0)
"""Weights times scales of V are kept this much larger in float16."""


@triton.jit
def _folded(x):
    """`x` [TILE, N] summed to [8, N]: rows that are 8 apart lie in one thread."""
    return tl.sum(tl.reshape(x, (x.shape[0] // 8, 8, x.shape[1])), 0)


@triton.jit
def _see(scores, peak, total):
    """One step of the online softmax over tokens [TILE, N]; `total` is summed at the end."""
    new = tl.maximum(peak, tl.max(scores, 0))
    keep = tl.exp2(peak - new)
    weights = tl.exp2(scores - new[None, :])
    return weights, keep, new, total * keep[None, :] + _folded(weights)


@triton.jit
def _biased(scores, bias, heads, starts, block, slot, position, reach, there):
    key = tl.load(starts + block) + slot
    distance = (key - position)[:, None]
    return scores + relative_bias(bias, heads[None, :], distance, reach, there[:, None])


@triton.jit
def _attended(
    scores, there, peak, total, bias, heads, starts, block, slot, position, reach
):  # fmt: skip
    """Weights of tokens that are `there` out of their scores, with their bias where there is one;
    and how much of the sums before is kept, the largest score and the total since.
    """
    if bias is not None:
        scores = _biased(scores, bias, heads, starts, block, slot, position, reach, there)
    return _see(tl.where(there[:, None], scores, NEVER), peak, total)


@triton.jit
def _next_block(offsets, block, blocks):
    """Where a block begins, before `aligned`; 0 for one past the last."""
    return tl.load(offsets + block, mask=block < blocks, other=0)


@triton.jit
def _first_blocks(offsets, blocks, NEXT: tl.constexpr):
    """Where the first block begins, and that of the turn after, which is NEXT blocks on."""
    return aligned(_next_block(offsets, 0, blocks)), _next_block(offsets, NEXT, blocks)


@triton.jit
def _wide_item(
    queries, arena, unit, offsets, starts, tokens, scale, bias, heads, member, position, reach,
    sums,
    D: tl.constexpr, T: tl.constexpr, N: tl.constexpr, PAD: tl.constexpr, TILE: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """An item of 16 bits: `sums` gets its sum; returns the largest score and the total."""
    DTYPE: tl.constexpr = queries.dtype.element_ty
    columns = tl.arange(0, 2 * PAD)
    dims = dims_of(columns, D // 2, PAD)
    inside = columns % PAD < D // 2
    q = tl.load(queries + dims[:, None], mask=inside[:, None] & member[None, :], other=0.0)
    arena += unit * (2 * T * D * DTYPE.primitive_bitwidth // 8)
    peak = tl.full([N], NEVER, tl.float32)
    total = tl.zeros([8, N], tl.float32)
    acc = tl.zeros([2 * PAD, N], tl.float32)
    blocks = tl.cdiv(tokens, T)
    start, after = _first_blocks(offsets, blocks, TILE // T)
    for begin in tl.range(0, tokens, TILE, num_stages=STAGES):
        slot = begin % T + tl.arange(0, TILE)
        there = tl.arange(0, TILE) < tokens - begin
        base = (arena + start).to(tl.pointer_type(DTYPE))
        keys = base + (slot[:, None] * D + dims[None, :])
        # Scores of what lies past the last token are replaced below; values must be numbers.
        k = tl.load(keys) if PAD == D // 2 else tl.load(keys, mask=inside[None, :], other=0.0)
        v = tl.load(
            base + T * D + (slot[None, :] * D + dims[:, None]),
            mask=there[None, :] & inside[:, None], other=0.0,
        )  # fmt: skip
        start = aligned(after)
        after = _next_block(offsets, (begin + 2 * TILE) // T, blocks)
        scores = dot(k, q, tl.zeros([TILE, N], tl.float32)) * scale
        weights, keep, peak, total = _attended(
            scores, there, peak, total, bias, heads, starts, begin // T, slot, position, reach
        )
        part = dot(v, weights.to(DTYPE), tl.zeros([2 * PAD, N], tl.float32))
        acc = tl.fma(acc, keep[None, :], part)
    tl.store(sums + dims[:, None], acc, mask=inside[:, None] & member[None, :])
    return peak, tl.sum(total, 0)


@triton.jit
def _token_pair(base, slot, left, T: tl.constexpr):
    """Two float16 numbers that each token has, T apart, in a word; 0 from token `left` on."""
    numbers = base.to(tl.pointer_type(tl.uint16)) + slot
    there = slot < left
    first = tl.load(numbers, mask=there, other=0).to(tl.int32)
    return first | (tl.load(numbers + T, mask=there, other=0).to(tl.int32) << 16)


@triton.jit
def _copied_pair(base, slot, there, T: tl.constexpr):
    """Both numbers of each token in float32, 0 where there is none: one load that is not masked, so
    that it is wide enough for an asynchronous copy.
    """
    numbers = base.to(tl.pointer_type(tl.uint16))
    bits = tl.load(numbers + (tl.arange(0, 2)[:, None] * T + slot[None, :]))
    first, second = tl.split(tl.trans(tl.where(there[None, :], bits, 0)))
    return half(first).to(tl.float32), half(second).to(tl.float32)


@triton.jit
def _byte_item(
    queries, arena, unit, offsets, starts, tokens, scale, bias, heads, member, position, reach,
    sums,
    D: tl.constexpr, T: tl.constexpr, N: tl.constexpr, PAIRS: tl.constexpr, TILE: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """The same for an item of 8 bits, two dimensions to a word: even ones low, odd ones high.

    Scales are loaded one turn ahead by hand, since they are too few for an asynchronous copy.
    """
    DTYPE: tl.constexpr = (
        tl.float32 if INTERPRET or queries.dtype.element_ty == tl.float32 else tl.float16
    )
    HALF: tl.constexpr = D // 2
    pairs = tl.arange(0, PAIRS)
    inside = pairs < HALF
    mask = inside[:, None] & member[None, :]
    q_even = tl.load(queries + 2 * pairs[:, None], mask=mask, other=0.0).to(tl.float32)
    q_odd = tl.load(queries + 2 * pairs[:, None] + 1, mask=mask, other=0.0).to(tl.float32)
    centre = tl.sum(q_even + q_odd, 0) * CENTRE
    q_even = q_even.to(DTYPE)
    q_odd = q_odd.to(DTYPE)
    arena += unit * (2 * T * D + 4 * T)
    peak = tl.full([N], NEVER, tl.float32)
    total = tl.zeros([8, N], tl.float32)
    shares = tl.zeros([8, N], tl.float32)
    even = tl.zeros([PAIRS, N], tl.float32)
    odd = tl.zeros([PAIRS, N], tl.float32)
    blocks = tl.cdiv(tokens, T)
    start, after = _first_blocks(offsets, blocks, TILE // T)
    next_scales = _token_pair(arena + start + 2 * T * D, tl.arange(0, TILE), tokens, T)
    for begin in tl.range(0, tokens, TILE, num_stages=STAGES):
        slot = begin % T + tl.arange(0, TILE)
        base = (arena + start).to(tl.pointer_type(tl.uint16))
        keys = base + (slot[:, None] * HALF + pairs[None, :])
        values = base + T * HALF + (slot[None, :] * HALF + pairs[:, None])
        if PAIRS == HALF:
            k = tl.load(keys)
            v = tl.load(values)
        else:
            k = tl.load(keys, mask=inside[None, :], other=0)
            v = tl.load(values, mask=inside[:, None], other=0)
        k_scale, v_scale = halves_of(next_scales, tl.float32)
        v_scale *= LIFT
        start = aligned(after)
        slot = (begin + TILE) % T + tl.arange(0, TILE)
        left = tokens - (begin + TILE) // T * T
        next_scales = _token_pair(arena + start + 2 * T * D, slot, left, T)
        after = _next_block(offsets, (begin + 2 * TILE) // T, blocks)

        slot = begin % T + tl.arange(0, TILE)
        there = tl.arange(0, TILE) < tokens - begin
        k_even, k_odd = bytes_of(k, DTYPE)
        scores = dot(k_even, q_even, tl.zeros([TILE, N], tl.float32))
        scores = dot(k_odd, q_odd, scores)
        scores = (scores * UNIT - centre[None, :]) * (k_scale * scale)[:, None]
        weights, keep, peak, total = _attended(
            scores, there, peak, total, bias, heads, starts, begin // T, slot, position, reach
        )
        weights = (weights * v_scale[:, None]).to(DTYPE)
        shares = shares * keep[None, :] + _folded(weights.to(tl.float32))
        v_even, v_odd = bytes_of(v, DTYPE)
        part = dot(v_even, weights, tl.zeros([PAIRS, N], tl.float32))
        even = tl.fma(even, keep[None, :], part)
        part = dot(v_odd, weights, tl.zeros([PAIRS, N], tl.float32))
        odd = tl.fma(odd, keep[None, :], part)
    out = sums + 2 * pairs[:, None]
    centre = (tl.sum(shares, 0) * CENTRE)[None, :]
    tl.store(out, (even * UNIT - centre) * (1.0 / LIFT), mask=mask)
    tl.store(out + 1, (odd * UNIT - centre) * (1.0 / LIFT), mask=mask)
    return peak, tl.sum(total, 0)


@triton.jit
def _channels(base, words, inside, D: tl.constexpr, WORDS: tl.constexpr):
    """Two float16 numbers to a word, of the dimensions in the lower and in the upper half."""
    if WORDS == D // 4:
        low = tl.load(base + words)
        high = tl.load(base + D // 4 + words)
    else:
        low = tl.load(base + words, mask=inside, other=0)
        high = tl.load(base + D // 4 + words, mask=inside, other=0)
    return low, high


@triton.jit
def _nibble_item(
    queries, arena, unit, offsets, starts, tokens, scale, bias, heads, member, position, reach,
    sums,
    D: tl.constexpr, T: tl.constexpr, N: tl.constexpr, WORDS: tl.constexpr,
    STAGES: tl.constexpr, COPIED: tl.constexpr,
):  # fmt: skip
    """The same for an item of 4 bits, a block at a time and four dimensions to a word.

    The word w of a row holds dimensions 2w, 2w + D/2, 2w + 1 and 2w + 1 + D/2. The query times the
    minima is a product of its own, in which all rows are the same: float16 could not hold a value
    of K as precisely as code, scale and minimum do.
    """
    DTYPE: tl.constexpr = (
        tl.float32 if INTERPRET or queries.dtype.element_ty == tl.float32 else tl.float16
    )
    HALF: tl.constexpr = D // 2
    words = tl.arange(0, WORDS)
    inside = words < D // 4
    mask = inside[:, None] & member[None, :]
    queries += 2 * words[:, None]
    q_0 = tl.load(queries, mask=mask, other=0.0).to(tl.float32).to(DTYPE)
    q_1 = tl.load(queries + HALF, mask=mask, other=0.0).to(tl.float32).to(DTYPE)
    q_2 = tl.load(queries + 1, mask=mask, other=0.0).to(tl.float32).to(DTYPE)
    q_3 = tl.load(queries + HALF + 1, mask=mask, other=0.0).to(tl.float32).to(DTYPE)
    arena += unit * (T * D + 4 * (D + T))
    slot = tl.arange(0, T)
    peak = tl.full([N], NEVER, tl.float32)
    total = tl.zeros([8, N], tl.float32)
    least = tl.zeros([8, N], tl.float32)
    acc_0 = tl.zeros([WORDS, N], tl.float32)
    acc_1 = tl.zeros([WORDS, N], tl.float32)
    acc_2 = tl.zeros([WORDS, N], tl.float32)
    acc_3 = tl.zeros([WORDS, N], tl.float32)
    blocks = tl.cdiv(tokens, T)
    start, after = _first_blocks(offsets, blocks, 1)
    META: tl.constexpr = T * D + 4 * D
    if not COPIED:
        next_pair = _token_pair(arena + start + META, slot, tokens, T)
    for block in tl.range(0, blocks, num_stages=STAGES):
        base = (arena + start).to(tl.pointer_type(tl.uint16))
        keys = base + (slot[:, None] * (D // 4) + words[None, :])
        values = base + T * (D // 4) + (slot[None, :] * (D // 4) + words[:, None])
        if WORDS == D // 4:
            k = tl.load(keys)
            v = tl.load(values)
        else:
            k = tl.load(keys, mask=inside[None, :], other=0)
            v = tl.load(values, mask=inside[:, None], other=0)
        pairs = (arena + start + T * D).to(tl.pointer_type(tl.int32))
        scale_low, scale_high = _channels(pairs, words, inside, D, WORDS)
        min_low, min_high = _channels(pairs + D // 2, words, inside, D, WORDS)
        if COPIED:
            there = slot < tokens - block * T
            v_scale, v_min = _copied_pair(arena + start + META, slot, there, T)
        else:
            v_scale, v_min = halves_of(next_pair, tl.float32)
        v_scale *= LIFT
        start = aligned(after)
        if not COPIED:
            next_pair = _token_pair(arena + start + META, slot, tokens - (block + 1) * T, T)
        after = _next_block(offsets, block + 2, blocks)

        there = slot < tokens - block * T
        every = tl.zeros([T, WORDS], tl.int32)
        min_0, min_2 = halves_of(min_low[None, :] + every, DTYPE)
        min_1, min_3 = halves_of(min_high[None, :] + every, DTYPE)
        scores = dot(min_0, q_0, tl.zeros([T, N], tl.float32))
        scores = dot(min_1, q_1, scores)
        scores = dot(min_2, q_2, scores)
        scores = dot(min_3, q_3, scores)
        scale_0, scale_2 = halves_of(scale_low[None, :] + every, tl.float16)
        scale_1, scale_3 = halves_of(scale_high[None, :] + every, tl.float16)
        scale_1 = (scale_1 * SIXTEENTH).to(tl.float16)
        scale_3 = (scale_3 * SIXTEENTH).to(tl.float16)
        k_0, k_1, k_2, k_3 = scaled_nibbles_of(k, scale_0, scale_1, scale_2, scale_3, DTYPE)
        scores = dot(k_0, q_0, scores)
        scores = dot(k_1, q_1, scores)
        scores = dot(k_2, q_2, scores)
        scores = dot(k_3, q_3, scores)
        scores *= scale
        weights, keep, peak, total = _attended(
            scores, there, peak, total, bias, heads, starts, block, slot, position, reach
        )
        least = least * keep[None, :] + _folded(weights * v_min[:, None])
        weights = (weights * v_scale[:, None]).to(DTYPE)
        v_0, v_1, v_2, v_3 = nibbles_of(v, DTYPE)
        zeros = tl.zeros([WORDS, N], tl.float32)
        acc_0 = tl.fma(acc_0, keep[None, :], dot(v_0, weights, zeros))
        acc_1 = tl.fma(acc_1, keep[None, :], dot(v_1, weights, zeros))
        acc_2 = tl.fma(acc_2, keep[None, :], dot(v_2, weights, zeros))
        acc_3 = tl.fma(acc_3, keep[None, :], dot(v_3, weights, zeros))
    out = sums + 2 * words[:, None]
    least = tl.sum(least, 0)[None, :] * LIFT
    tl.store(out, (acc_0 * UNIT + least) * (1.0 / LIFT), mask=mask)
    tl.store(out + HALF, (acc_1 * (UNIT * SIXTEENTH) + least) * (1.0 / LIFT), mask=mask)
    tl.store(out + 1, (acc_2 * UNIT + least) * (1.0 / LIFT), mask=mask)
    tl.store(out + HALF + 1, (acc_3 * (UNIT * SIXTEENTH) + least) * (1.0 / LIFT), mask=mask)
    return peak, tl.sum(total, 0)


@triton.jit
def _ask_for_first_blocks(
    arena, unit, offsets, keys, precision,
    D: tl.constexpr, T: tl.constexpr, WIDE_BYTES: tl.constexpr, LINES: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Have what is this head's of the first two blocks of an item of `keys` tokens brought to the
    L2; LINES of 128 bytes hold it where it has 16 bits.
    """
    nbytes = tl.where(precision == 8, 2 * T * D + 4 * T, T * D + 4 * (D + T))
    nbytes = tl.where(precision == 16, WIDE_BYTES, nbytes)
    lines = tl.minimum(128 * tl.arange(0, LINES), nbytes - 1)
    for turn in tl.static_range(2):
        block = tl.minimum(turn, tl.maximum(keys - 1, 0) // T)
        start = aligned(tl.load(offsets + block, mask=keys > 0, other=0))
        ask_for(arena + start + unit * nbytes + lines, EARLY)


@triton.jit(do_not_specialize=["layer", "reach"])
def decode_items(
    q, arena, sums, peaks, totals, bits, rows, first, tokens, positions, offsets, starts, bias,
    scale, q_stride, layer, reach,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, T: tl.constexpr,
    N: tl.constexpr, PAD: tl.constexpr, PAIRS: tl.constexpr, WORDS: tl.constexpr,
    TILE: tl.constexpr, STAGES: tl.constexpr, BYTE_STAGES: tl.constexpr,
    NIBBLE_STAGES: tl.constexpr, COPIED: tl.constexpr, LINES: tl.constexpr, EARLY: tl.constexpr,
    ASKED: tl.constexpr,
):  # fmt: skip
    """Attention of one item and KV head.

    `sums` float32 [items, heads, D], `peaks` and `totals` float32 [items, heads].
    """
    let_next_begin(EARLY)
    if not ASKED:
        wait_for_last(EARLY)
    item = tl.program_id(0) // KV_HEADS
    kv_head = tl.program_id(0) % KV_HEADS
    HEADS: tl.constexpr = KV_HEADS * GROUP
    member = tl.arange(0, N) < GROUP
    heads = kv_head * GROUP + tl.where(member, tl.arange(0, N), 0)
    state = item.to(tl.int64) * HEADS + heads
    keys = tl.load(tokens + item)
    if ASKED:
        # What an item is was there before the step's first kernel, and of its blocks the kernels
        # before write one slot at the most, through the L2.
        _ask_for_first_blocks(
            arena, layer * KV_HEADS + kv_head, offsets + tl.load(first + item), keys,
            tl.load(bits + item), D, T, 2 * T * D * q.dtype.element_ty.primitive_bitwidth // 8,
            LINES, EARLY,
        )  # fmt: skip
        wait_for_last(EARLY)
    if keys == 0:
        tl.store(peaks + state, tl.full([N], NEVER, tl.float32), mask=member)
        tl.store(totals + state, tl.zeros([N], tl.float32), mask=member)
        return
    precision = tl.load(bits + item)
    row = tl.load(rows + item)
    entry = tl.load(first + item)
    position = tl.load(positions + row)
    queries = q + row.to(tl.int64) * q_stride + heads[None, :] * D
    sums += state[None, :] * D
    unit = layer * KV_HEADS + kv_head
    offsets += entry
    starts += entry
    scale = scale * LOG2E
    if precision == 4:
        peak, total = _nibble_item(
            queries, arena, unit, offsets, starts, keys, scale, bias, heads, member, position,
            reach, sums, D, T, N, WORDS, NIBBLE_STAGES, COPIED,
        )  # fmt: skip
    elif precision == 8:
        peak, total = _byte_item(
            queries, arena, unit, offsets, starts, keys, scale, bias, heads, member, position,
            reach, sums, D, T, N, PAIRS, TILE, BYTE_STAGES,
        )  # fmt: skip
    else:
        peak, total = _wide_item(
            queries, arena, unit, offsets, starts, keys, scale, bias, heads, member, position,
            reach, sums, D, T, N, PAD, TILE, STAGES,
        )  # fmt: skip
    tl.store(peaks + state, peak, mask=member)
    tl.store(totals + state, total, mask=member)
