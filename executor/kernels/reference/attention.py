"""Attention over blocks of mixed precision in plain torch, all blocks of one precision at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from executor.kernels.reference.blocks import read_units
from executor.kv.layout import PRECISIONS, KVLayout
from executor.step import BlockLists, DecodeItems, PrefillChunks


@dataclass(slots=True)
class _Gathered:
    """Some entries of the block lists, read out, in the type of the computation."""

    keys: Tensor
    """[entries, kv_heads, T, D]"""
    values: Tensor
    positions: Tensor
    """int64 [entries, T]: of each key in its sequence."""
    there: Tensor
    """bool [entries, T]"""
    owners: Tensor
    """int64 [entries]: the row, or chunk, to which the entry belongs."""


def rope_write(  # noqa: PLR0913, PLR0917
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    positions: Tensor,
    arena: Tensor,
    layout: KVLayout,
    layer: int,
    write_offsets: Tensor,
    write_slots: Tensor,
) -> None:
    """See `kernels.ops`."""
    if cos is not None and sin is not None:
        at = positions.long()
        q.copy_(_rotated(q, cos[at], sin[at]))
        k = _rotated(k, cos[at], sin[at])
    kept = write_slots >= 0
    first = write_offsets[kept, None] + torch.tensor(
        [layout.unit_offset(16, layer, head) for head in range(layout.kv_heads)],
        device=arena.device,
    )
    row_bytes = layout.head_dim * layout.dtype.itemsize
    first = first + (write_slots[kept, None] * row_bytes)
    _write_rows(arena, first, k[kept])
    _write_rows(arena, first + layout.block_tokens * row_bytes, v[kept])


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` [rows, heads, D] with its halves rotated, computed in float32 at least."""
    wide = torch.promote_types(x.dtype, torch.float32)
    low, high = x.to(wide).chunk(2, dim=-1)
    cos, sin = cos[:, None].to(wide), sin[:, None].to(wide)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)


def _write_rows(arena: Tensor, first: Tensor, rows: Tensor) -> None:
    """Write `rows` [n, kv_heads, D] at byte offsets `first` [n, kv_heads]."""
    granule = 16
    raw = rows.contiguous().view(torch.uint8).unflatten(-1, (-1, granule))
    target = first[..., None] // granule + torch.arange(raw.shape[2], device=arena.device)
    whole = arena.numel() // granule * granule
    arena[:whole].view(-1, granule)[target] = raw


def decode_attention(
    q: Tensor,
    arena: Tensor,
    layout: KVLayout,
    layer: int,
    items: DecodeItems,
    scale: float,
    bias: Tensor | None = None,
) -> Tensor:
    """See `kernels.ops`: a softmax over the entries of each row, three precisions together."""
    rows, heads, head_dim = q.shape
    wide = torch.promote_types(q.dtype, torch.float32)
    grouped = q.to(wide).unflatten(1, (layout.kv_heads, -1))
    found = _gather_items(arena, layout, layer, items, wide)
    owners = found.owners
    scores = grouped[owners] @ found.keys.transpose(2, 3) * scale
    if bias is not None:
        distance = found.positions - items.positions.long()[owners, None]
        scores = scores + _bias(bias, distance).permute(1, 0, 2).unflatten(1, (layout.kv_heads, -1))
    scores = scores.masked_fill(~found.there[:, None, None], -torch.inf)
    peak = scores.new_full((rows, *scores.shape[1:3]), -torch.inf)
    index = owners[:, None, None].expand(scores.shape[:3])
    peak = peak.scatter_reduce(0, index, scores.amax(3), "amax")
    weights = (scores - peak[owners][..., None]).exp()
    total = peak.new_zeros(peak.shape).index_add_(0, owners, weights.sum(3))
    out = torch.zeros_like(grouped).index_add_(0, owners, weights @ found.values)
    out = out / total.where(total > 0, 1.0)[..., None]
    return out.reshape(rows, heads, head_dim).to(q.dtype)


def _gather_items(
    arena: Tensor, layout: KVLayout, layer: int, items: DecodeItems, wide: torch.dtype
) -> _Gathered:
    parts: list[_Gathered] = []
    for bits in PRECISIONS:
        chosen = (items.bits == bits) & (items.tokens > 0)
        if parts and not chosen.any():
            continue
        parts.append(
            _gather(
                arena, layout, layer, bits, items.blocks, wide,
                items.first[chosen], items.tokens[chosen], items.rows[chosen],
            )
        )  # fmt: skip
    return _joined(parts)


def _gather(  # noqa: PLR0913, PLR0917
    arena: Tensor,
    layout: KVLayout,
    layer: int,
    bits: int,
    blocks: BlockLists,
    wide: torch.dtype,
    first: Tensor,
    tokens: Tensor,
    owners: Tensor,
) -> _Gathered:
    """The entries of ranges [first, first + blocks of `tokens`) of one precision."""
    per_block = layout.block_tokens
    counts = (tokens.long() + per_block - 1) // per_block
    ranges = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    within = torch.arange(len(ranges), device=counts.device) - (counts.cumsum(0) - counts)[ranges]
    entries = first.long()[ranges] + within
    slots = torch.arange(per_block, device=counts.device)
    keys, values = read_units(arena, layout, layer, bits, blocks.offsets[entries], wide)
    there = within[:, None] * per_block + slots < tokens.long()[ranges, None]
    # Beyond the last key a block may hold anything, also what is not a number.
    partial = (~there.all(1)).nonzero()[:, 0]
    kept = there[partial][:, None, :, None]
    keys[partial] = keys[partial].where(kept, 0.0)
    values[partial] = values[partial].where(kept, 0.0)
    return _Gathered(
        keys=keys,
        values=values,
        positions=blocks.positions[entries].long()[:, None] + slots,
        there=there,
        owners=owners.long()[ranges],
    )


def _joined(parts: list[_Gathered]) -> _Gathered:
    parts = [part for part in parts if len(part.owners)] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    return _Gathered(
        keys=torch.cat([part.keys for part in parts]),
        values=torch.cat([part.values for part in parts]),
        positions=torch.cat([part.positions for part in parts]),
        there=torch.cat([part.there for part in parts]),
        owners=torch.cat([part.owners for part in parts]),
    )


def _bias(bias: Tensor, distance: Tensor) -> Tensor:
    """[heads, *distance.shape]"""
    reach = bias.shape[1] // 2
    return bias[:, distance.clamp(-reach, reach) + reach]


def prefill_attention(  # noqa: PLR0913, PLR0917
    q: Tensor,
    arena: Tensor,
    layout: KVLayout,
    layer: int,
    chunks: PrefillChunks,
    scale: float,
    bias: Tensor | None = None,
    causal: bool = True,
) -> Tensor:
    """See `kernels.ops`: one chunk after the other."""
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    first_rows = chunks.first_row.tolist()
    wide = torch.promote_types(q.dtype, torch.float32)
    for chunk, context in enumerate(chunks.context.tolist()):
        rows = slice(first_rows[chunk], first_rows[chunk + 1])
        query = q[rows].to(wide).transpose(0, 1)
        found = _gather_chunk(arena, layout, layer, chunks, chunk, wide)
        position = context + torch.arange(query.shape[1], device=q.device)
        distance = found.positions.flatten()[found.there.flatten()] - position[:, None]
        mask = query.new_zeros((1, *distance.shape)) if bias is None else _bias(bias, distance)
        if causal:
            mask = mask.masked_fill(distance > 0, -torch.inf)
        out[rows] = _dense(query, found, mask.to(wide), scale).transpose(0, 1).to(q.dtype)
    return out


def _gather_chunk(
    arena: Tensor,
    layout: KVLayout,
    layer: int,
    chunks: PrefillChunks,
    chunk: int,
    wide: torch.dtype,
) -> _Gathered:
    return _joined([
        _gather(
            arena, layout, layer, bits, chunks.blocks, wide,
            chunks.first[chunk, place : place + 1],
            chunks.tokens[chunk, place : place + 1],
            chunks.first[chunk, place : place + 1],
        )
        for place, bits in enumerate(PRECISIONS)
    ])  # fmt: skip


def _dense(query: Tensor, found: _Gathered, mask: Tensor, scale: float) -> Tensor:
    """Attention of `query` [heads, rows, D] over what was gathered for one chunk."""
    there = found.there.flatten()
    if not bool(there.any()):
        return torch.zeros_like(query)
    keys = found.keys.transpose(0, 1).flatten(1, 2)[:, there]
    values = found.values.transpose(0, 1).flatten(1, 2)[:, there]
    return scaled_dot_product_attention(
        query[None], keys[None], values[None], mask[None], scale=scale, enable_gqa=True
    )[0]
