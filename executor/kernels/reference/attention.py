"""Attention over blocks of mixed precision in plain torch, all blocks of one precision at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from executor.kernels.reference.blocks import Units, read_units
from executor.kv.layout import PRECISIONS, KVLayout
from executor.steps.step import BlockLists, DecodeItems, PrefillChunks


@dataclass(slots=True)
class _Entries:
    """Some entries of the block lists, all of one precision: what is the same in all layers."""

    bits: int
    offsets: Tensor
    """int64 [entries]"""
    positions: Tensor
    """int64 [entries, T]: of each key in its sequence."""
    there: Tensor
    """bool [entries, T]"""
    owners: Tensor
    """int64 [entries]: the row to which the entry belongs."""


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


# -- decodes --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Decodes:
    """Where the keys of a step's decodes are."""

    parts: list[_Entries]
    """One for each precision that there is."""
    owners: Tensor
    """int64 [entries], those of all parts."""
    index: Tensor
    """The same as an index of scores [entries, kv_heads, group]."""
    absent: Tensor
    """bool [entries, 1, 1, T]: beyond the last key a block may hold anything, also NaN."""
    partial: list[tuple[Tensor, Tensor]]
    """Of each part the entries that are not full, int64, and what lacks, bool [partial, 1, T, 1].
    """


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
    grouped = (q.to(wide) * scale).unflatten(1, (layout.kv_heads, -1))
    if items.found is None or layer == 0:
        items.found = _decodes(layout, items, grouped.shape[2])
    found: _Decodes = items.found
    units = [_units(arena, layout, layer, part, wide) for part in found.parts]
    pairs = zip(found.parts, units, strict=True)
    scores = torch.cat([unit.scores(grouped[part.owners]) for part, unit in pairs])
    if bias is not None:
        scores += _bias_of_decodes(bias, found, items, layout)
    scores.masked_fill_(found.absent, -torch.inf)
    peak = scores.new_full((rows, *scores.shape[1:3]), -torch.inf)
    peak = peak.scatter_reduce(0, found.index, scores.amax(3), "amax")
    weights = scores.sub_(peak[found.owners][..., None]).exp_()
    total = peak.new_zeros(peak.shape).index_add_(0, found.owners, weights.sum(3))
    out = torch.zeros_like(grouped)
    shares = weights.split([len(part.owners) for part in found.parts])
    for part, unit, lacking, share in zip(found.parts, units, found.partial, shares, strict=True):
        if len(lacking[0]):
            unit.clear_values(*lacking)
        out.index_add_(0, part.owners, unit.mixed(share))
    out /= total.where(total > 0, 1.0)[..., None]
    return out.reshape(rows, heads, head_dim).to(q.dtype)


def _decodes(layout: KVLayout, items: DecodeItems, group: int) -> _Decodes:
    parts = []
    for bits in PRECISIONS:
        chosen = (items.bits == bits) & (items.tokens > 0)
        if chosen.any():
            ranges = items.first[chosen], items.tokens[chosen], items.rows[chosen]
            parts.append(_entries(layout, bits, items.blocks, *ranges))
    if not parts:
        none = items.first[:0]
        parts.append(_entries(layout, PRECISIONS[0], items.blocks, none, none, none))
    owners = torch.cat([part.owners for part in parts])
    there = torch.cat([part.there for part in parts])
    return _Decodes(
        parts=parts,
        owners=owners,
        index=owners[:, None, None].expand(-1, layout.kv_heads, group),
        absent=~there[:, None, None],
        partial=[_partial(part) for part in parts],
    )


def _partial(part: _Entries) -> tuple[Tensor, Tensor]:
    """Entries that are not full, and which of their tokens lack."""
    partial = (~part.there.all(1)).nonzero()[:, 0]
    return partial, ~part.there[partial][:, None, :, None]


def _bias_of_decodes(bias: Tensor, found: _Decodes, items: DecodeItems, layout: KVLayout) -> Tensor:
    """[entries, kv_heads, group, T]"""
    positions = torch.cat([part.positions for part in found.parts])
    distance = positions - items.positions.long()[found.owners, None]
    return _bias(bias, distance).permute(1, 0, 2).unflatten(1, (layout.kv_heads, -1))


# -- chunks ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Chunk:
    """Where the keys of a chunk are."""

    rows: slice
    parts: list[_Entries]
    """16 bits last, so that keys that are not there come last of all, but for a chunk that ends in
    a cached block of fewer bits (`inputs.host_inputs`).
    """
    keys: slice | Tensor
    """Which of the slots of all blocks hold keys that are there."""
    at: Tensor
    """int64 [keys]: position of each key."""
    position: Tensor
    """int64 [rows, 1]: position of each query."""
    mask: Tensor | None = None
    """Minus infinity for keys after the query; where there is no bias to add."""


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
    if chunks.whole_step:
        out.zero_()
    wide = torch.promote_types(q.dtype, torch.float32)
    if chunks.found is None or layer == 0:
        chunks.found = _chunks(layout, chunks)
    for chunk in chunks.found:
        query = q[chunk.rows].to(wide).transpose(0, 1)
        if not len(chunk.at):
            out[chunk.rows] = 0.0
            continue
        keys, values = (
            part.transpose(0, 1).flatten(1, 2)[:, chunk.keys]
            for part in _dense(arena, layout, layer, chunk.parts, wide)
        )
        mask = _mask(chunk, bias, causal, wide)
        mixed = scaled_dot_product_attention(
            query[None], keys[None], values[None], mask, scale=scale, enable_gqa=True
        )
        out[chunk.rows] = mixed[0].transpose(0, 1).to(q.dtype)
    return out


def _chunks(layout: KVLayout, chunks: PrefillChunks) -> list[_Chunk]:
    """What chunks with rows attend to."""
    first_rows, contexts = chunks.first_row.tolist(), chunks.context.tolist()
    found = []
    for index, context in enumerate(contexts):
        rows = slice(first_rows[index], first_rows[index + 1])
        parts = []
        for place, bits in reversed(list(enumerate(PRECISIONS))):
            here = slice(place, place + 1)
            first, tokens = chunks.first[index, here], chunks.tokens[index, here]
            if tokens.any():
                parts.append(_entries(layout, bits, chunks.blocks, first, tokens, first))
        position = context + torch.arange(rows.stop - rows.start, device=chunks.first.device)
        flat = [part.positions.flatten() for part in parts]
        keys = _keys_there(parts)
        at = torch.cat(flat)[keys] if flat else position[:0]
        found.append(_Chunk(rows, parts, keys, at, position[:, None]))
    return found


def _keys_there(parts: list[_Entries]) -> slice | Tensor:
    """Which slots hold keys: where there are no gaps the first ones, a slice, which is no copy."""
    if not parts:
        return slice(0)
    there = torch.cat([part.there.flatten() for part in parts])
    count = int(there.sum())
    return slice(count) if there[:count].all() else there.nonzero()[:, 0]


def _mask(chunk: _Chunk, bias: Tensor | None, causal: bool, wide: torch.dtype) -> Tensor | None:
    """What is added to scores: [1, heads or 1, rows, keys], or None for nothing."""
    if bias is None and not causal:
        return None
    if bias is None and chunk.mask is not None:
        return chunk.mask
    future = chunk.at > chunk.position
    if bias is None:
        zeros = torch.zeros(1, 1, *future.shape, dtype=wide, device=future.device)
        chunk.mask = zeros.masked_fill_(future, -torch.inf)
        return chunk.mask
    mask = _bias(bias, chunk.at - chunk.position)[None]
    return (mask.masked_fill(future, -torch.inf) if causal else mask).to(wide)


# -- entries --------------------------------------------------------------------------------------


def _entries(
    layout: KVLayout,
    bits: int,
    blocks: BlockLists,
    first: Tensor,
    tokens: Tensor,
    owners: Tensor,
) -> _Entries:
    """The entries of ranges [first, first + blocks of `tokens`) of one precision."""
    per_block = layout.block_tokens
    counts = (tokens.long() + per_block - 1) // per_block
    ranges = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    within = torch.arange(len(ranges), device=counts.device) - (counts.cumsum(0) - counts)[ranges]
    entries = first.long()[ranges] + within
    slots = torch.arange(per_block, device=counts.device)
    return _Entries(
        bits=bits,
        offsets=blocks.offsets[entries],
        positions=blocks.positions[entries].long()[:, None] + slots,
        there=within[:, None] * per_block + slots < tokens.long()[ranges, None],
        owners=owners.long()[ranges],
    )


def _units(arena: Tensor, layout: KVLayout, layer: int, part: _Entries, wide: torch.dtype) -> Units:
    """Keys and values of entries in one layer."""
    return read_units(arena, layout, layer, part.bits, part.offsets, wide)


def _dense(
    arena: Tensor, layout: KVLayout, layer: int, parts: list[_Entries], wide: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Keys and values of entries in one layer as numbers, each [entries, kv_heads, T, D]."""
    found = [_units(arena, layout, layer, part, wide).dense() for part in parts]
    if len(found) == 1:
        return found[0]
    return torch.cat([keys for keys, _ in found]), torch.cat([values for _, values in found])


def _bias(bias: Tensor, distance: Tensor) -> Tensor:
    """[heads, *distance.shape]"""
    reach = bias.shape[1] // 2
    return bias[:, distance.clamp(-reach, reach) + reach]
