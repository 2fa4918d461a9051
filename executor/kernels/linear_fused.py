"""Products of few rows that do what comes before and after them in a layer: norms, the residual and
the gated activation, for up to 32 rows and 16-bit weights.

A norm `h / rms(h) * gain` is split in two. Whoever writes h, which is the product that adds the
residual, also writes h * gain and, of every tile of outputs, the sum of the squares of each row.
The product that takes the normed rows takes h * gain and divides its sums by the root mean square,
the same for all inputs of a row. So no kernel has to see whole rows. Products of gate and up have
both of the same channels in a tile, and write what is activated.

Sums of squares are added up in a fixed order, by every program that needs them. What the epilogues
read is asked for before the loop and there when it ends. Off until a device has measured it
(experiments/results/h200/predictions.md).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from executor.kernels.early import is_early, let_next_begin, options, wait_for_last
from executor.kernels.linear import AHEAD, FLOAT, WIDE, arrived_of, shared
from executor.kernels.registry import Entry
from executor.kernels.sums import (
    ask_for_weights,
    leave,
    parts_of,
    slice_of,
    sum_of_parts,
    tile_of_sums,
)
from executor.kernels.tiles import Tile, capability, power_of_two

FUSED: dict[int, bool] = {80: False, 90: False}
"""Per architecture; 80 has no products of its own with 16-bit weights."""
TYPES: tuple[torch.dtype, ...] = (torch.bfloat16,)
"""Of rows and weights: h * gain may exceed the range of float16."""


@triton.jit
def inverse_rms(squares, k, eps):
    """Of rows of k numbers; `squares` [tiles, ROWS]: sums over tiles of them."""
    return tl.rsqrt(tl.sum(squares, axis=0) / k + eps)


@triton.jit
def rows_of_weights(tile, outs, OUTS: tl.constexpr, GATED: tl.constexpr):
    """Those of a tile; channels past the last of `outs` read its weights, which costs no mask.

    GATED: gates lie above ways up, and 8 of each take turns.
    """
    place = tl.arange(0, OUTS)
    if GATED:
        channel = tile * (OUTS // 2) + place // 16 * 8 + place % 8
        rows = tl.minimum(channel, outs - 1) + place // 8 % 2 * outs
    else:
        rows = tl.minimum(tile * OUTS + place, outs - 1)
    return rows.to(tl.int64)


@triton.jit
def store_added(out, scaled, total, factor, there):
    """Write `total` and that times `factor`; its squares, as they were rounded: the next layer adds
    to what is normed here.
    """
    rounded = total.to(out.dtype.element_ty)
    tl.store(out, rounded, mask=there)
    wide = tl.where(there, rounded.to(tl.float32), 0.0)
    tl.store(scaled, (wide * factor[None, :]).to(scaled.dtype.element_ty), mask=there)
    return wide * wide


@triton.jit
def gated(total, OUTS: tl.constexpr, ROWS: tl.constexpr):
    """`silu(gate) * up`, [OUTS / 2, ROWS], of 8 rows of gate and 8 of up in turns: those of a
    channel are then in one thread.
    """
    pairs = tl.permute(tl.reshape(total, (OUTS // 16, 2, 8, ROWS)), (0, 2, 3, 1))
    gate, up = tl.split(tl.reshape(pairs, (OUTS // 2, ROWS, 2)))
    return gate * tl.sigmoid(gate) * up


@triton.jit(do_not_specialize=["m"])
def fused_kernel(  # noqa: PLR0913, PLR0917
    x, weight, squares, residual, gain, out, scaled, new_squares, parts, arrived,
    m, n, k, eps,
    ROWS: tl.constexpr, OUTS: tl.constexpr, DEPTH: tl.constexpr, EVEN: tl.constexpr,
    SLICES: tl.constexpr, GATED: tl.constexpr, TILES: tl.constexpr,
    AHEAD: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One tile of a product of m rows, or a slice of its sum over k as in `linear_kernel`.

    `squares` float32 [tiles of k, m]: sums of squares of the rows whose norm is still to come, of
    TILES tiles at the most, or None. GATED: `weight` [n, k] has gates in its first half, and `out`
    is [m, n / 2]. With `residual` [m, n] the sum goes to `out`, times `gain` [n] to `scaled`, and
    its squares to `new_squares` [tiles of n, m].
    """
    let_next_begin(EARLY)
    tile = tl.program_id(0) // SLICES
    part = tl.program_id(0) % SLICES
    row = tl.arange(0, ROWS)
    WIDTH: tl.constexpr = OUTS // 2 if GATED else OUTS
    outs = n // 2 if GATED else n
    rows = rows_of_weights(tile, outs, OUTS, GATED)
    channel = tile * WIDTH + tl.arange(0, WIDTH)
    at = row[:, None] * outs + channel[None, :]
    there = (row < m)[:, None] & (channel < outs)[None, :]
    begin, end = slice_of(part, k, DEPTH, SLICES)
    ask_for_weights(weight, rows, begin, k, DEPTH, AHEAD, EARLY)
    if residual is not None:
        factor = tl.load(gain + channel, mask=channel < outs, other=0.0).to(tl.float32)
    wait_for_last(EARLY)
    if squares is not None:
        by = tl.arange(0, TILES)
        summed = (by < tl.cdiv(k, OUTS))[:, None] & (row < m)[None, :]
        found = tl.load(squares + by[:, None] * m + row[None, :], mask=summed, other=0.0)
    if residual is not None:
        before = tl.load(residual + at, mask=there, other=0.0).to(tl.float32)
    total = tile_of_sums(x, weight, row, rows, begin, end, m, k, ROWS, OUTS, DEPTH, EVEN)
    if SLICES > 1:
        of_tile = parts_of(parts, tile, ROWS, OUTS, SLICES)
        if leave(of_tile, total, part, arrived + tile, OUTS * ROWS) != SLICES - 1:
            return
        tl.store(arrived + tile, 0)
        total = sum_of_parts(of_tile, ROWS, OUTS, SLICES)
    if squares is not None:
        total *= inverse_rms(found, k, eps)[None, :]
    if GATED:
        total = gated(total, OUTS, ROWS)
    result = tl.trans(total)
    if residual is not None:
        squared = store_added(out + at, scaled + at, result + before, factor, there)
        tl.store(new_squares + tile * m + row, tl.sum(squared, axis=1), mask=row < m)
    else:
        tl.store(out + at, result.to(out.dtype.element_ty), mask=there)


def fuses(x: Tensor) -> bool:
    """See `Ops.fuses`."""
    chip = capability(x.device)
    most = max((tile.rows for tile in WIDE[chip]), default=0)
    return FUSED[chip] and 0 < len(x) <= most and x.dtype in TYPES


def linear_add(
    x: Tensor, weight: Tensor, residual: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See `Ops.linear_add`."""
    out, scaled = torch.empty_like(residual), torch.empty_like(residual)
    tiles = triton.cdiv(len(weight), _tile(x).outs)
    squares = x.new_empty((tiles, len(x)), dtype=FLOAT)
    _launch(x, weight, out, added=(residual, gain, scaled, squares))
    return out, scaled, squares


def linear_normed(x: Tensor, squares: Tensor, eps: float, weight: Tensor) -> Tensor:
    """See `Ops.linear_normed`."""
    out = x.new_empty((len(x), len(weight)))
    _launch(x, weight, out, normed=(squares, eps))
    return out


def linear_gated(x: Tensor, squares: Tensor, eps: float, weight: Tensor) -> Tensor:
    """See `Ops.linear_gated`."""
    out = x.new_empty((len(x), len(weight) // 2))
    _launch(x, weight, out, normed=(squares, eps), gate=True)
    return out


def _launch(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    normed: tuple[Tensor, float] | None = None,
    added: tuple[Tensor, Tensor, Tensor, Tensor] | None = None,
    gate: bool = False,
) -> None:
    """`normed`: sums of squares and epsilon; `added`: residual and gain, and what is written of
    the sum beside it.
    """
    (m, k), n = x.shape, weight.shape[0]
    tile, early = _tile(x), is_early(capability(x.device), m)
    tiles = triton.cdiv(out.shape[1], tile.outs // 2 if gate else tile.outs)
    slices, parts = shared(x, tile, tiles)
    squares, eps = normed or (None, 0.0)
    residual, gain, scaled, new_squares = added or (None, None, None, None)
    fused_kernel[(tiles * slices,)](
        x.contiguous(), weight, squares, residual, gain, out, scaled, new_squares,
        parts, arrived_of(x.device), m, n, k, eps,
        **_constants(tile, k, slices, gate, normed is not None), AHEAD=AHEAD if early else 0,
        EARLY=early, **tile.options, **options(early),
    )  # fmt: skip


def _tile(x: Tensor) -> Tile:
    """The tile for these rows."""
    return next(tile for tile in WIDE[capability(x.device)] if len(x) <= tile.rows)


def _constants(tile: Tile, k: int, slices: int, gate: bool, normed: bool) -> dict[str, Any]:
    tiles = power_of_two(triton.cdiv(k, tile.outs)) if normed else 1
    return tile.constants(k) | {"SLICES": slices, "GATED": gate, "TILES": tiles}


def entries() -> list[Entry]:
    """Every tile, for the products of a layer of Llama-3.1-8B."""
    return [
        _entry(tile, *form)
        for tile in WIDE[90]
        for form in (("add", 4), ("normed", 1), ("normed", 2), ("gated", 1))
    ]


def _entry(tile: Tile, form: str, slices: int) -> Entry:
    pointers = {"x": "*bf16", "weight": "*bf16", "out": "*bf16", "parts": "*fp32"}
    added = {"residual": "*bf16", "gain": "*bf16", "scaled": "*bf16", "new_squares": "*fp32"}
    pointers |= {"arrived": "*i32"} | (added if form == "add" else {"squares": "*fp32"})
    absent = {"squares": None} if form == "add" else dict.fromkeys(added)
    constants = _constants(tile, 4096, slices, form == "gated", form != "add")
    return Entry(
        name=f"linear_{form} {tile.rows}x{tile.outs}x{tile.depth}"
        + (f" in {slices} slices" if slices > 1 else ""),
        kernel=fused_kernel,
        capability=90,
        types=pointers | {"m": "i32", "n": "i32", "k": "i32", "eps": "fp32"},
        constants=constants | absent | {"AHEAD": AHEAD, "EARLY": True},
        aligned=(*pointers, "n", "k"),
        options=tile.options,
        max_registers=128,
        max_early_loads=1,
        dot=True,
        pipelined=True,
    )
