"""Blocks rewritten with fewer bits: 16 to 8, 16 to 4 and 8 to 4.

8 bits: `scale = largest magnitude / 127` per token. 4 bits: `min` and `scale = (max - min) / 15`,
per channel over the tokens of the block for K and per token for V (KIVI, arXiv 2402.02750,
section 3). Codes are made with scale and minimum as they are stored, in float16, and rounded half
up.
"""

# Kernels take what they need one by one.
# ruff: noqa: PLR0913, PLR0917

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from executor.kernels.common import FORMS, Form, padded_half
from executor.kernels.registry import Entry
from executor.kv.layout import KVLayout

NUM_WARPS = {8: 4, 4: 1}
"""By the bits that blocks get: ranges of channels, which go over all tokens, stay in one warp."""
TILE_PAIRS = 1024
"""Pairs of values that one warp holds at a time."""


@triton.jit
def _inverse(scale):
    """1 / scale, and 0 for a scale of 0."""
    return tl.where(scale > 0, 1.0 / tl.where(scale > 0, scale, 1.0), 0.0)


@triton.jit
def _load_halves(
    unit, values, token, dims, mask, scale,
    D: tl.constexpr, FROM: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Both halves of the values that begin at element `values` of a unit, in float32."""
    element: tl.constexpr = DTYPE if FROM == 16 else tl.int8
    source = unit.to(tl.pointer_type(element)) + values + token[:, None] * D + dims[None, :]
    low = tl.load(source, mask=mask, other=0).to(tl.float32)
    high = tl.load(source + D // 2, mask=mask, other=0).to(tl.float32)
    if FROM == 8:
        low = low * scale[:, None]
        high = high * scale[:, None]
    return low, high


@triton.jit
def _write_8(low, high, codes, scales, token, dims, mask, D: tl.constexpr):
    largest = tl.maximum(tl.max(tl.abs(low), 1), tl.max(tl.abs(high), 1))
    scale = (largest * (1.0 / 127.0)).to(tl.float16)
    tl.store(scales + token, scale)
    inverse = _inverse(scale.to(tl.float32))[:, None]
    target = codes.to(tl.pointer_type(tl.int8)) + token[:, None] * D + dims[None, :]
    tl.store(target, _signed(low * inverse), mask=mask)
    tl.store(target + D // 2, _signed(high * inverse), mask=mask)


@triton.jit
def _signed(x):
    return tl.minimum(tl.maximum(tl.floor(x + 0.5), -127.0), 127.0).to(tl.int8)


@triton.jit
def _nibble(x):
    # Not negative, so that the conversion, which drops what is behind the point, rounds down.
    return tl.minimum(tl.maximum(x + 0.5, 0.0), 15.0).to(tl.uint8)


@triton.jit
def _range(least, most):
    """Scale and minimum in float16 of values in [least, most]."""
    least = least.to(tl.float16)
    return ((most - least.to(tl.float32)) * (1.0 / 15.0)).to(tl.float16), least


@triton.jit
def _write_k_4(low, high, unit, meta, token, dims, mask, inside, D: tl.constexpr):
    scale, least = _range(tl.min(low, 0), tl.max(low, 0))
    tl.store(meta + dims, scale, mask=inside)
    tl.store(meta + D + dims, least, mask=inside)
    low = (low - least.to(tl.float32)[None, :]) * _inverse(scale.to(tl.float32))[None, :]
    scale, least = _range(tl.min(high, 0), tl.max(high, 0))
    tl.store(meta + D // 2 + dims, scale, mask=inside)
    tl.store(meta + D + D // 2 + dims, least, mask=inside)
    high = (high - least.to(tl.float32)[None, :]) * _inverse(scale.to(tl.float32))[None, :]
    target = unit + token[:, None] * (D // 2) + dims[None, :]
    tl.store(target, _nibble(low) | (_nibble(high) << 4), mask=mask)


@triton.jit
def _write_v_4(low, high, codes, meta, token, dims, mask, D: tl.constexpr, T: tl.constexpr):
    # The padding holds zeros, which must not count.
    least = tl.minimum(
        tl.min(tl.where(mask, low, 3.0e38), 1), tl.min(tl.where(mask, high, 3.0e38), 1)
    )
    most = tl.maximum(
        tl.max(tl.where(mask, low, -3.0e38), 1), tl.max(tl.where(mask, high, -3.0e38), 1)
    )
    scale, least = _range(least, most)
    tl.store(meta + token, scale)
    tl.store(meta + T + token, least)
    inverse = _inverse(scale.to(tl.float32))[:, None]
    low = (low - least.to(tl.float32)[:, None]) * inverse
    high = (high - least.to(tl.float32)[:, None]) * inverse
    target = codes + token[:, None] * (D // 2) + dims[None, :]
    tl.store(target, _nibble(low) | (_nibble(high) << 4), mask=mask)


@triton.jit
def _make_8(
    source, target, D: tl.constexpr, T: tl.constexpr, PAD: tl.constexpr, DTYPE: tl.constexpr
):
    token = tl.arange(0, T)
    dims = tl.arange(0, PAD)
    mask = (token >= 0)[:, None] & (dims < D // 2)[None, :]
    meta = (target + 2 * T * D).to(tl.pointer_type(tl.float16))
    for values in tl.static_range(2):
        low, high = _load_halves(source, values * T * D, token, dims, mask, 0.0, D, 16, DTYPE)
        _write_8(low, high, target + values * T * D, meta + values * T, token, dims, mask, D)


@triton.jit
def _scale_8(source, token, first, D: tl.constexpr, T: tl.constexpr, FROM: tl.constexpr):
    """Scales of tokens in a block of 8 bits, from the one at `first` on."""
    if FROM == 8:
        scales = (source + 2 * T * D).to(tl.pointer_type(tl.float16))
        return tl.load(scales + first + token).to(tl.float32)
    else:
        return token.to(tl.float32)


@triton.jit
def _make_k_4(
    source, target,
    D: tl.constexpr, T: tl.constexpr, PAD: tl.constexpr, COLUMNS: tl.constexpr,
    FROM: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    token = tl.arange(0, T)
    scale = _scale_8(source, token, 0, D, T, FROM)
    meta = (target + T * D).to(tl.pointer_type(tl.float16))
    for begin in range(0, PAD, COLUMNS):
        dims = begin + tl.arange(0, COLUMNS)
        inside = dims < D // 2
        mask = (token >= 0)[:, None] & inside[None, :]
        low, high = _load_halves(source, 0, token, dims, mask, scale, D, FROM, DTYPE)
        _write_k_4(low, high, target, meta, token, dims, mask, inside, D)


@triton.jit
def _make_v_4(
    source, target,
    D: tl.constexpr, T: tl.constexpr, PAD: tl.constexpr, ROWS: tl.constexpr,
    FROM: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    dims = tl.arange(0, PAD)
    meta = (target + T * D + 4 * D).to(tl.pointer_type(tl.float16))
    for begin in range(0, T, ROWS):
        token = begin + tl.arange(0, ROWS)
        mask = (token >= 0)[:, None] & (dims < D // 2)[None, :]
        scale = _scale_8(source, token, T, D, T, FROM)
        low, high = _load_halves(source, T * D, token, dims, mask, scale, D, FROM, DTYPE)
        _write_v_4(low, high, target + T * D // 2, meta, token, dims, mask, D, T)


@triton.jit
def rewrite_blocks(
    arena, sources, targets,
    UNITS: tl.constexpr, D: tl.constexpr, T: tl.constexpr, PAD: tl.constexpr,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr,
    FROM: tl.constexpr, TO: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """One layer and KV head (a unit) of one block.

    4 bits are made in tiles of COLUMNS pairs of channels for K and of ROWS tokens for V.
    """
    unit = tl.program_id(0) % UNITS
    block = tl.program_id(0) // UNITS
    WIDE: tl.constexpr = 2 * T * D * DTYPE.primitive_bitwidth // 8
    FROM_BYTES: tl.constexpr = WIDE if FROM == 16 else 2 * T * D + 4 * T
    TO_BYTES: tl.constexpr = 2 * T * D + 4 * T if TO == 8 else T * D + 4 * (D + T)
    source = arena + tl.multiple_of(tl.load(sources + block), 16) + unit * FROM_BYTES
    target = arena + tl.multiple_of(tl.load(targets + block), 16) + unit * TO_BYTES
    if TO == 8:
        _make_8(source, target, D, T, PAD, DTYPE)
    else:
        _make_k_4(source, target, D, T, PAD, COLUMNS, FROM, DTYPE)
        _make_v_4(source, target, D, T, PAD, ROWS, FROM, DTYPE)


def requantise(
    arena: Tensor,
    layout: KVLayout,
    sources: Tensor,
    targets: Tensor,
    from_bits: int,
    to_bits: int,
) -> None:
    """See `kernels.ops`."""
    blocks = sources.numel()
    units = layout.layers * layout.kv_heads
    if blocks:
        rewrite_blocks[(blocks * units,)](
            arena,
            sources,
            targets,
            **constants(layout, from_bits, to_bits),
            num_warps=NUM_WARPS[to_bits],
        )


TYPES = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}


def constants(layout: KVLayout, from_bits: int, to_bits: int) -> dict[str, Any]:
    """Compile-time arguments of `rewrite_blocks`."""
    padded = padded_half(layout.head_dim)
    return {
        "UNITS": layout.layers * layout.kv_heads,
        "D": layout.head_dim,
        "T": layout.block_tokens,
        "PAD": padded,
        "COLUMNS": max(16, min(padded, TILE_PAIRS // layout.block_tokens)),
        "ROWS": min(layout.block_tokens, max(1, TILE_PAIRS // padded)),
        "FROM": from_bits,
        "TO": to_bits,
        "DTYPE": TYPES[layout.dtype],
    }


def entries() -> list[Entry]:
    """Every form and pair of precisions."""
    pairs = ((16, 8), (16, 4), (8, 4))
    return [
        _entry(capability, form, *pair)
        for capability in (80, 90)
        for form in FORMS
        for pair in pairs
    ]


def _entry(capability: int, form: Form, from_bits: int, to_bits: int) -> Entry:
    pointers = {"arena": "*u8", "sources": "*i64", "targets": "*i64"}
    return Entry(
        name=f"rewrite_blocks {from_bits} to {to_bits}, {form}",
        kernel=rewrite_blocks,
        capability=capability,
        types=pointers,
        constants=constants(form.layout, from_bits, to_bits),
        aligned=tuple(pointers),
        options={"num_warps": NUM_WARPS[to_bits]},
    )
