"""Mixture of experts: two products of groups of rows, sorted by expert (`moe_routing.py`).

As in `linear_int8`, the weights are the left operand of the dots, int8 ones are converted in
registers and scaled after the sum. Every pair writes a row of its own, already multiplied by its
share, and the k rows of a token are summed in order: the result does not depend on which program
ends first.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from executor.kernels.moe_routing import Routing, route, route_entry
from executor.kernels.registry import Entry
from executor.kernels.tiles import (
    GROUP,
    Tile,
    capability,
    choose,
    operand,
    tile_of,
    types_of,
)

UP_TILES: dict[int, tuple[Tile, ...]] = {
    80: (
        Tile(rows=16, outs=64, depth=64, warps=4, stages=4),
        Tile(rows=32, outs=64, depth=64, warps=4, stages=4),
        Tile(rows=64, outs=64, depth=64, warps=4, stages=3),
        Tile(rows=128, outs=64, depth=64, warps=8, stages=3),
    ),
    90: (
        Tile(rows=16, outs=64, depth=128, warps=4, stages=3),
        Tile(rows=32, outs=64, depth=128, warps=4, stages=3),
        Tile(rows=64, outs=64, depth=64, warps=4, stages=4),
        Tile(rows=128, outs=64, depth=64, warps=8, stages=4),
    ),
}
"""By the mean number of rows of an expert; a tile holds `outs` gates and as many others."""
DOWN_TILES: dict[int, tuple[Tile, ...]] = {
    80: (
        Tile(rows=16, outs=64, depth=64, warps=4, stages=5),
        Tile(rows=32, outs=64, depth=64, warps=4, stages=4),
        Tile(rows=64, outs=64, depth=64, warps=4, stages=4),
        Tile(rows=128, outs=128, depth=64, warps=8, stages=3),
    ),
    90: (
        Tile(rows=16, outs=64, depth=128, warps=4, stages=4),
        Tile(rows=32, outs=64, depth=128, warps=4, stages=4),
        Tile(rows=64, outs=64, depth=64, warps=4, stages=4),
        Tile(rows=128, outs=128, depth=64, warps=8, stages=4),
    ),
}
"""The same rows as in UP_TILES: both products work on the same tiles of pairs."""
UP_INT8: tuple[Tile, ...] = (
    Tile(rows=16, outs=32, depth=128, warps=2, stages=4),
    Tile(rows=32, outs=32, depth=128, warps=2, stages=3),
    Tile(rows=64, outs=64, depth=64, warps=4, stages=4),
    Tile(rows=128, outs=64, depth=64, warps=8, stages=4),
)
DOWN_INT8: tuple[Tile, ...] = (
    Tile(rows=16, outs=32, depth=128, warps=2, stages=4),
    Tile(rows=32, outs=64, depth=128, warps=2, stages=3),
    Tile(rows=64, outs=64, depth=128, warps=4, stages=4),
    Tile(rows=128, outs=64, depth=64, warps=8, stages=4),
)
"""For int8 weights, on any chip: two warps for few rows, for the reason that `linear_int8` gives.
Chosen by what the compiler makes of them; no GPU has timed them.
"""
FLOAT32_INT8 = Tile(rows=16, outs=32, depth=32, warps=4, stages=4)
"""For any number of rows of float32, which go without tensor cores."""


@triton.jit(do_not_specialize=["most_tiles"])
def grouped_kernel(  # noqa: PLR0913, PLR0917
    x,
    weight,
    scales,
    shares,
    out,
    order,
    tiles,
    used,
    most_tiles,
    n,
    k,
    chosen,
    GATED: tl.constexpr,
    SCALED: tl.constexpr,
    ROWS: tl.constexpr,
    OUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    EVEN: tl.constexpr,
    GROUP: tl.constexpr,
):
    """A tile of rows of one expert times a tile of its weights.

    GATED: rows of `x` are tokens, weights are [2 * n, k], gates first, and `out` [pairs, n] is in
    the order of `order`. Else rows of `x` are in that order, weights are [n, k], and `out` is in
    the order of pairs and multiplied by `shares`. SCALED: weights are int8, and `scales` float32
    has one for each of their rows.
    """
    row_tiles = tl.load(used)
    out_tiles = tl.cdiv(n, OUTS)
    if tl.program_id(0) >= row_tiles * out_tiles:
        return
    row_tile, out_tile = tile_of(tl.program_id(0), row_tiles, out_tiles, GROUP)
    expert = tl.load(tiles + row_tile).to(tl.int64)
    index = tl.load(tiles + most_tiles + row_tile) + tl.arange(0, ROWS)
    there = index < tl.load(tiles + 2 * most_tiles + row_tile)
    pair = tl.load(order + index, mask=there, other=0)
    channel = out_tile * OUTS + tl.arange(0, OUTS)
    safe = tl.minimum(channel, n - 1).to(tl.int64)
    depth = tl.arange(0, DEPTH)
    source = index
    target = pair
    first_row = expert * n
    if GATED:
        source = pair // chosen
        target = index
        first_row *= 2
    x_at = x + source.to(tl.int64)[:, None] * k + depth[None, :]
    weight_at = weight + (first_row + safe)[:, None] * k + depth[None, :]
    up_at = weight_at + n.to(tl.int64) * k
    total = tl.zeros((OUTS, ROWS), dtype=tl.float32)
    up_total = tl.zeros((OUTS, ROWS), dtype=tl.float32)
    for start in range(0, k, DEPTH):
        if EVEN:
            values = tl.load(x_at, mask=there[:, None], other=0.0)
            rows = tl.load(weight_at)
        else:
            inside = (depth < k - start)[None, :]
            values = tl.load(x_at, mask=there[:, None] & inside, other=0.0)
            rows = tl.load(weight_at, mask=inside, other=0.0)
        values = tl.trans(operand(values))
        total = tl.dot(rows.to(values.dtype), values, total, input_precision="ieee")
        if GATED:
            if EVEN:
                rows = tl.load(up_at)
            else:
                rows = tl.load(up_at, mask=(depth < k - start)[None, :], other=0.0)
            up_total = tl.dot(rows.to(values.dtype), values, up_total, input_precision="ieee")
            up_at += DEPTH
        x_at += DEPTH
        weight_at += DEPTH
    if SCALED:
        scale_at = scales + first_row + safe
        total *= tl.load(scale_at)[:, None]
        if GATED:
            up_total *= tl.load(scale_at + n)[:, None]
    if GATED:
        total = total * tl.sigmoid(total) * up_total
    else:
        total *= tl.load(shares + pair, mask=there, other=0.0)[None, :]
    at = out + target.to(tl.int64)[:, None] * n + channel[None, :]
    result = tl.trans(total).to(out.dtype.element_ty)
    tl.store(at, result, mask=there[:, None] & (channel < n)[None, :])


def moe(
    x: Tensor,
    weights: Tensor,
    experts: Tensor,
    gate_up: Tensor,
    down: Tensor,
    scales: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """See `Ops.moe`."""
    (rows, hidden), k = x.shape, experts.shape[1]
    if rows == 0:
        return torch.empty_like(x)
    up_tile, down_tile = _tiles(x, rows * k, gate_up)
    routing = route(experts.contiguous(), gate_up.shape[0], up_tile.rows)
    shares = weights.contiguous()
    # Where nothing is scaled the kernel takes an address and never reads there.
    up_scales, down_scales = scales or (shares, shares)
    inner = x.new_empty((rows * k, down.shape[2]))
    _grouped(x.contiguous(), (gate_up, up_scales), shares, inner, routing, k, up_tile)
    pairs = x.new_empty((rows * k, hidden))
    _grouped(inner, (down, down_scales), shares, pairs, routing, k, down_tile)
    return pairs.view(rows, k, hidden).sum(dim=1)


def _tiles(x: Tensor, pairs: int, gate_up: Tensor) -> tuple[Tile, Tile]:
    """Those of the first and the second product, by the mean number of rows of an expert."""
    chip, mean_rows = capability(x.device), triton.cdiv(pairs, gate_up.shape[0])
    size = x.element_size()
    if gate_up.dtype != torch.int8:
        return choose(UP_TILES[chip], mean_rows, size), choose(DOWN_TILES[chip], mean_rows, size)
    if size > 2:
        return FLOAT32_INT8, FLOAT32_INT8
    return choose(UP_INT8, mean_rows), choose(DOWN_INT8, mean_rows)


def _grouped(
    x: Tensor,
    matrices: tuple[Tensor, Tensor],
    shares: Tensor,
    out: Tensor,
    routing: Routing,
    chosen: int,
    tile: Tile,
) -> None:
    """Launch `grouped_kernel` on weights and their scales; it is gated if the weights have twice
    the outputs.
    """
    weight, scales = matrices
    n, k, most_tiles = out.shape[1], x.shape[1], routing.tiles.shape[1]
    grouped_kernel[(most_tiles * triton.cdiv(n, tile.outs),)](
        x,
        weight,
        scales,
        shares,
        out,
        routing.order,
        routing.tiles,
        routing.used,
        most_tiles,
        n,
        k,
        chosen,
        GATED=weight.shape[1] == 2 * n,
        SCALED=weight.dtype == torch.int8,
        **_constants(tile, k),
        **tile.options,
    )


def _constants(tile: Tile, k: int) -> dict[str, Any]:
    return tile.constants(k) | {"GROUP": GROUP}


def entries() -> list[Entry]:
    """Both products with every tile and both kinds of weights, and both ways of routing."""
    routes = [
        route_entry(chip, pairs, count)
        for chip in UP_TILES
        for pairs, count in ((64, 8), (512, 128), (16384, 8))
    ]
    products = [
        _entry(chip, tile, gated, dtype)
        for gated, table in ((True, UP_TILES), (False, DOWN_TILES))
        for chip, tiles in table.items()
        for tile, dtype in types_of(tiles)
    ]
    scaled = [
        _entry(chip, FLOAT32_INT8 if dtype == "fp32" else tile, gated, dtype, scaled=True)
        for gated, tiles in ((True, UP_INT8), (False, DOWN_INT8))
        for chip in UP_TILES
        for tile, dtype in types_of(tiles)
    ]
    return routes + products + scaled


def _entry(chip: int, tile: Tile, gated: bool, dtype: str, scaled: bool = False) -> Entry:
    types = dict.fromkeys(("x", "weight", "out"), f"*{dtype}")
    types |= dict.fromkeys(("scales", "shares"), "*fp32")
    types |= dict.fromkeys(("order", "tiles", "used"), "*i32")
    types |= dict.fromkeys(("most_tiles", "n", "k", "chosen"), "i32")
    if scaled:
        types["weight"] = "*i8"
    product = f"{'up' if gated else 'down'}{' int8' if scaled else ''}"
    return Entry(
        name=f"moe {product} {tile.rows}x{tile.outs}x{tile.depth} {dtype}",
        kernel=grouped_kernel,
        capability=chip,
        types=types,
        constants={"GATED": gated, "SCALED": scaled, **_constants(tile, 4096)},
        aligned=("x", "weight", "scales", "shares", "out", "order", "tiles", "used", "n", "k"),
        options=tile.options,
        max_registers=224 if scaled else 192,
        dot=dtype != "fp32",
        pipelined=dtype != "fp32",
    )
