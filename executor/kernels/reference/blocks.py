"""Blocks read and rewritten in plain torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from executor.kv.layout import SCALE_BYTES, KVLayout

WORD = 8
"""Blocks are copied out in words of so many bytes: faster than byte by byte."""


def gather_bytes(arena: Tensor, offsets: Tensor, nbytes: int) -> Tensor:
    """uint8 [offsets, nbytes]: what begins at each byte offset; all are multiples of 8."""
    words = arena[: arena.numel() // WORD * WORD].view(torch.int64)
    width = nbytes // WORD
    windows = words.as_strided((words.numel() - width + 1, width), (1, 1))
    return windows.index_select(0, offsets // WORD).view(torch.uint8)


def scatter_bytes(arena: Tensor, offsets: Tensor, rows: Tensor) -> None:
    """Write uint8 `rows` [offsets, nbytes] at byte offsets; the inverse of `gather_bytes`."""
    words = arena[: arena.numel() // WORD * WORD].view(torch.int64)
    values = rows.view(torch.int64)
    words[offsets[:, None] // WORD + torch.arange(values.shape[1], device=arena.device)] = values


@dataclass(slots=True)
class Units:
    """Keys and values of some blocks: codes, and what makes numbers of them (`kv.layout`)."""

    keys: Tensor
    """[..., T, D] codes, or the numbers themselves where there are no scales."""
    values: Tensor
    key_scale: Tensor | None = None
    """[..., T, 1] for 8 bits, [..., 1, D] for 4."""
    key_min: Tensor | None = None
    """[..., 1, D] for 4 bits."""
    value_scale: Tensor | None = None
    """[..., T, 1]"""
    value_min: Tensor | None = None
    """[..., T, 1] for 4 bits."""

    def dense(self) -> tuple[Tensor, Tensor]:
        """The numbers, K and V [..., T, D]."""
        keys, values = self.keys, self.values
        if self.key_scale is not None and self.value_scale is not None:
            keys, values = keys * self.key_scale, values * self.value_scale
        if self.key_min is not None and self.value_min is not None:
            keys, values = keys + self.key_min, values + self.value_min
        return keys, values

    def scores(self, q: Tensor) -> Tensor:
        """`q` [..., G, D] times the keys, [..., G, T]; few queries are scaled in place of keys."""
        if self.key_scale is None:
            return q @ self.keys.mT
        if self.key_min is None:
            return (q @ self.keys.mT).mul_(self.key_scale.mT)
        return ((q * self.key_scale) @ self.keys.mT).add_(q @ self.key_min.mT)

    def clear_values(self, blocks: Tensor, absent: Tensor) -> None:
        """Make values of `blocks` zero where tokens are `absent` [blocks, 1, T, 1]; what stands for
        them may be no number, and then not even a weight of 0 takes it away.
        """
        for part in (self.values, self.value_scale, self.value_min):
            if part is not None:
                part[blocks] = part[blocks].masked_fill(absent, 0.0)

    def mixed(self, weights: Tensor) -> Tensor:
        """`weights` [..., G, T] times the values, [..., G, D]."""
        if self.value_scale is None:
            return weights @ self.values
        found = (weights * self.value_scale.mT) @ self.values
        return found if self.value_min is None else found.add_(weights @ self.value_min)


def read_units(
    arena: Tensor,
    layout: KVLayout,
    layer: int,
    bits: int,
    offsets: Tensor,
    dtype: torch.dtype,
) -> Units:
    """One layer of blocks, in numbers of `dtype`: K and V are [blocks, kv_heads, T, D]."""
    first = offsets + layout.unit_offset(bits, layer)
    raw = gather_bytes(arena, first, layout.layer_bytes[bits])
    units = raw.view(len(offsets), layout.kv_heads, layout.unit_bytes[bits])
    return split_units(units, layout, bits, dtype)


def split_units(units: Tensor, layout: KVLayout, bits: int, dtype: torch.dtype) -> Units:
    """The parts of units uint8 [..., unit bytes]."""
    shape = (layout.block_tokens, layout.head_dim)
    if bits == 16:
        k, v = units.view(layout.dtype).chunk(2, dim=-1)
        return Units(k.unflatten(-1, shape).to(dtype), v.unflatten(-1, shape).to(dtype))
    meta_bytes = _meta_bytes(layout, bits)
    codes = units[..., :-meta_bytes]
    meta = units[..., -meta_bytes:].contiguous().view(torch.float16).to(dtype)
    if bits == 8:
        k, v = codes.view(torch.int8).unflatten(-1, (2, *shape)).to(dtype).unbind(-3)
        k_scale, v_scale = meta.chunk(2, dim=-1)
        return Units(k, v, key_scale=k_scale[..., None], value_scale=v_scale[..., None])
    packed = codes.unflatten(-1, (2, shape[0], shape[1] // 2))
    k, v = torch.cat((packed & 15, packed >> 4), dim=-1).to(dtype).unbind(-3)
    channels, tokens = layout.head_dim, layout.block_tokens
    k_scale, k_min, v_scale, v_min = meta.split((channels, channels, tokens, tokens), dim=-1)
    per_channel, per_token = (..., None, slice(None)), (..., None)
    return Units(
        k, v, k_scale[per_channel], k_min[per_channel], v_scale[per_token], v_min[per_token]
    )


def _meta_bytes(layout: KVLayout, bits: int) -> int:
    channels = layout.head_dim if bits == 4 else 0
    return 2 * SCALE_BYTES * (layout.block_tokens + channels)


def encode_units(k: Tensor, v: Tensor, bits: int) -> Tensor:
    """Units uint8 [..., unit bytes] of 8 or 4 bits that hold `k` and `v` [..., T, D]."""
    if bits == 8:
        (k_codes, k_scale), (v_codes, v_scale) = _signed(k), _signed(v)
        parts = [k_codes, v_codes, k_scale, v_scale]
    else:
        (k_codes, k_scale, k_min), (v_codes, v_scale, v_min) = _affine(k, -2), _affine(v, -1)
        parts = [_packed(k_codes), _packed(v_codes), k_scale, k_min, v_scale, v_min]
    lead = k.ndim - 2
    return torch.cat([part.contiguous().flatten(lead).view(torch.uint8) for part in parts], dim=-1)


def _signed(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes and float16 scales of symmetric quantisation per token."""
    x = x.float()
    scale = (x.abs().amax(-1) * (1 / 127)).half()
    codes = (x * _inverse(scale)[..., None] + 0.5).floor().clamp(-127, 127)
    return codes.to(torch.int8), scale


def _affine(x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes 0 to 15, float16 scales and minima of affine quantisation over `dim`."""
    x = x.float()
    least = x.amin(dim).half()
    scale = ((x.amax(dim) - least.float()) * (1 / 15)).half()
    codes = (x - least.float().unsqueeze(dim)) * _inverse(scale).unsqueeze(dim)
    return (codes + 0.5).floor().clamp(0, 15).to(torch.uint8), scale, least


def _inverse(scale: Tensor) -> Tensor:
    """1 / scale, and 0 for a scale of 0."""
    wide = scale.float()
    return torch.where(wide > 0, 1 / wide, 0.0)


def _packed(codes: Tensor) -> Tensor:
    low, high = codes.chunk(2, dim=-1)
    return low | (high << 4)


def requantise(
    arena: Tensor,
    layout: KVLayout,
    sources: Tensor,
    targets: Tensor,
    from_bits: int,
    to_bits: int,
) -> None:
    """See `kernels.ops`."""
    if not len(sources):
        return
    raw = gather_bytes(arena, sources, layout.block_bytes[from_bits])
    units = raw.view(len(sources), -1, layout.unit_bytes[from_bits])
    k, v = split_units(units, layout, from_bits, torch.float32).dense()
    scatter_bytes(arena, targets, encode_units(k, v, to_bits).flatten(1))
