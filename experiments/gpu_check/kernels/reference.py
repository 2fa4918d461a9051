"""Attention, norms and projections in float64, written from their definitions.

Independent of `executor.kernels`: blocks are read by the description in `executor.kv.layout`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from executor.kv.layout import KVLayout
from executor.steps.step import DecodeItems, PrefillChunks


def read_block(
    arena: Tensor, layout: KVLayout, bits: int, offset: int, place: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """K and V [T, D] in float64 of one block's `place`, a layer and a KV head."""
    begin = offset + layout.unit_offset(bits, *place)
    raw = arena[begin : begin + layout.unit_bytes[bits]]
    tokens, channels = layout.block_tokens, layout.head_dim
    if bits == 16:
        both = raw.view(layout.dtype).double().view(2, tokens, channels)
        return both[0], both[1]
    half = tokens * channels * bits // 8
    scales = raw[2 * half :].view(torch.float16).double()
    keys, values = raw[:half], raw[half : 2 * half]
    if bits == 8:
        return (
            keys.view(torch.int8).double().view(tokens, channels) * scales[:tokens, None],
            values.view(torch.int8).double().view(tokens, channels) * scales[tokens:, None],
        )
    k_scale, k_min, v_scale, v_min = scales.split([channels, channels, tokens, tokens])
    return (
        _nibbles(keys, tokens) * k_scale + k_min,
        _nibbles(values, tokens) * v_scale[:, None] + v_min[:, None],
    )


def _nibbles(raw: Tensor, tokens: int) -> Tensor:
    packed = raw.view(tokens, -1)
    return torch.cat([packed & 15, packed >> 4], dim=1).double()


def attend(q: Tensor, keys: Tensor, values: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """Softmax attention of `q` [rows, D] over `keys` and `values` [n, D]; `mask` [rows, n]."""
    scores = q.double() @ keys.T * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return torch.softmax(scores, dim=-1) @ values


def decode_attention(
    q: Tensor, arena: Tensor, layout: KVLayout, layer: int, items: DecodeItems, scale: float
) -> Tensor:
    """What `Ops.decode_attention` has to give, [rows, heads, D] in float64."""
    out = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
    group = q.shape[1] // layout.kv_heads
    bounds = items.row_items.tolist()
    parts = (items.bits.tolist(), items.first.tolist(), items.tokens.tolist())
    listed = list(zip(*parts, strict=True))
    for row in range(len(q)):
        ranges = [found for found in listed[bounds[row] : bounds[row + 1]] if found[2]]
        if not ranges:
            continue
        for head in range(layout.kv_heads):
            keys, values, _ = _gather(arena, layout, (layer, head), items.blocks, ranges)
            heads = slice(head * group, (head + 1) * group)
            out[row, heads] = attend(q[row, heads], keys, values, scale, None)
    return out


def prefill_attention(
    q: Tensor, arena: Tensor, layout: KVLayout, layer: int, chunks: PrefillChunks, scale: float
) -> Tensor:
    """What `Ops.prefill_attention` has to give, causal, [rows, heads, D] in float64."""
    out = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
    group = q.shape[1] // layout.kv_heads
    rows = chunks.first_row.tolist()
    for chunk, context in enumerate(chunks.context.tolist()):
        first, counts = chunks.first[chunk].tolist(), chunks.tokens[chunk].tolist()
        ranges = [
            (bits, begin, count)
            for bits, begin, count in zip((16, 8, 4), first, counts, strict=True)
            if count
        ]
        span = slice(rows[chunk], rows[chunk + 1])
        mine = context + torch.arange(span.stop - span.start, device=q.device)
        for kv_head in range(layout.kv_heads):
            keys, values, where = _gather(arena, layout, (layer, kv_head), chunks.blocks, ranges)
            mask = where[None, :] <= mine[:, None]
            for head in range(kv_head * group, (kv_head + 1) * group):
                out[span, head] = attend(q[span, head], keys, values, scale, mask)
    return out


def _gather(
    arena: Tensor,
    layout: KVLayout,
    place: tuple[int, int],
    blocks: object,
    ranges: list[tuple[int, int, int]],
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values and positions of ranges `(bits, first entry, tokens)` of block lists."""
    keys, values, where = [], [], []
    slots = torch.arange(layout.block_tokens, device=arena.device)
    for bits, first, tokens in ranges:
        count = -(-tokens // layout.block_tokens)
        offsets = blocks.offsets[first : first + count].tolist()  # type: ignore[attr-defined]
        begins = blocks.positions[first : first + count].tolist()  # type: ignore[attr-defined]
        pairs = [read_block(arena, layout, bits, offset, place) for offset in offsets]
        keys.append(torch.cat([k for k, _ in pairs])[:tokens])
        values.append(torch.cat([v for _, v in pairs])[:tokens])
        where.append(torch.cat([begin + slots for begin in begins])[:tokens])
    return torch.cat(keys), torch.cat(values), torch.cat(where)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
    """Rotary embedding of `x` [rows, heads, D] in float64, halves rotated."""
    c, s = cos.double()[positions.long(), None], sin.double()[positions.long(), None]
    first, second = x.double().chunk(2, dim=-1)
    return torch.cat([first * c - second * s, second * c + first * s], dim=-1)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last dimension in float64."""
    wide = x.double()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.double()


def moe(x: Tensor, shares: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Mixture of gated-SiLU experts, row by row, in float64."""
    out = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
    for row, (some, weights) in enumerate(zip(experts.tolist(), shares.tolist(), strict=True)):
        for expert, share in zip(some, weights, strict=True):
            gate, up = (gate_up[expert].double() @ x[row].double()).chunk(2)
            hidden = torch.nn.functional.silu(gate) * up
            out[row] += share * (down[expert].double() @ hidden)
    return out


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """‖found - wanted‖ / ‖wanted‖; infinite where a NaN was found or an element not written."""
    if found.shape != wanted.shape or not bool(torch.isfinite(found).all()):
        return float("inf")
    wide = wanted.double()
    return float((found.double() - wide).norm() / wide.norm().clamp_min(1e-30))
