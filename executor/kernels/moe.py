"""Mixture of experts: tokens sorted by expert, then two products of groups of rows.

A *pair* is a row and one of its k experts: pair p is row p // k. Pairs are sorted by expert on the
device and cut into tiles of rows of one expert each; how many tiles there are is known to the
device alone, so that launches are as large as can be needed and programs without work return. No
size depends on the routing: the launches can be captured in a CUDA graph.

As in `linear_int8`, the weights are the left operand of the dots, int8 ones are converted in
registers and scaled after the sum. Every pair writes a row of its own, already multiplied by its
share, and the k rows of a token are summed in order: the result does not depend on which program
ends first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from executor.kernels.registry import Entry
from executor.kernels.tiles import (
    GROUP,
    Tile,
    capability,
    choose,
    operand,
    power_of_two,
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
SORT_TURNS = 16
"""More chunks than this are left to torch's sort, which uses the whole device."""


@dataclass(frozen=True)
class Routing:
    """Which pairs are worked on together."""

    order: Tensor
    """int32 [pairs]: pairs by expert, in the order of rows within one."""
    tiles: Tensor
    """int32 [3, most tiles]: expert, first and end index in `order`."""
    used: Tensor
    """int32 [1]: how many tiles there are."""


@triton.jit(do_not_specialize=["pairs", "most_tiles"])
def route_kernel(  # noqa: PLR0913, PLR0917
    experts,
    order,
    ends,
    tiles,
    used,
    pairs,
    most_tiles,
    SORT: tl.constexpr,
    EXPERTS: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """One program that sorts pairs by expert (SORT; else reads `ends`) and cuts them into tiles."""
    expert = tl.arange(0, EXPERTS)
    if SORT:
        counts = tl.zeros((EXPERTS,), dtype=tl.int32)
        for start in range(0, pairs, CHUNK):
            counts += tl.sum(_chosen(experts, start, pairs, EXPERTS, CHUNK), axis=0)
        end = tl.cumsum(counts, axis=0)
        free = end - counts
        for start in range(0, pairs, CHUNK):
            chosen = _chosen(experts, start, pairs, EXPERTS, CHUNK)
            rank = tl.cumsum(chosen, axis=0) - chosen + free[None, :]
            pair = start + tl.arange(0, CHUNK)
            tl.store(order + tl.sum(chosen * rank, axis=1), pair, mask=pair < pairs)
            free += tl.sum(chosen, axis=0)
    else:
        end = tl.load(ends + expert).to(tl.int32)
        counts = end - tl.load(ends + expert - 1, mask=expert > 0, other=0).to(tl.int32)
    height = tl.cdiv(counts, ROWS)
    last = tl.cumsum(height, axis=0)
    first = end - counts
    for turn in range(0, tl.max(height, axis=0)):
        at = tiles + last - height + turn
        tl.store(at, expert, mask=turn < height)
        tl.store(at + most_tiles, first + turn * ROWS, mask=turn < height)
        tl.store(at + 2 * most_tiles, end, mask=turn < height)
    tl.store(used, tl.max(last, axis=0))


@triton.jit
def _chosen(experts, start, pairs, EXPERTS: tl.constexpr, CHUNK: tl.constexpr):
    """int32 [CHUNK, EXPERTS]: 1 where a pair has the expert."""
    pair = start + tl.arange(0, CHUNK)
    chosen = tl.load(experts + pair, mask=pair < pairs, other=-1).to(tl.int32)
    return (chosen[:, None] == tl.arange(0, EXPERTS)[None, :]).to(tl.int32)


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


def route(experts: Tensor, count: int, tile_rows: int) -> Routing:
    """Sort the pairs of `experts` [rows, k] by expert, of which there are `count`."""
    pairs, device = experts.numel(), experts.device
    # Every expert that is chosen at all may leave a tile partly empty.
    most_tiles = (pairs + min(count, pairs) * (tile_rows - 1)) // tile_rows
    tiles = torch.empty((3, most_tiles), dtype=torch.int32, device=device)
    used = torch.empty(1, dtype=torch.int32, device=device)
    constants = _route_constants(pairs, count, tile_rows)
    if constants["SORT"]:
        order = ends = torch.empty(pairs, dtype=torch.int32, device=device)
    else:
        order, ends = _sorted_by_torch(experts, constants["EXPERTS"])
    route_kernel[(1,)](
        experts, order, ends, tiles, used, pairs, most_tiles, **constants, num_warps=4
    )
    return Routing(order, tiles, used)


def _sorted_by_torch(experts: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Pairs by expert, and where each expert's end, without waiting for the device."""
    found, order = experts.view(-1).sort(stable=True)
    every = torch.arange(count, device=experts.device)
    return order.to(torch.int32), torch.searchsorted(found, every, right=True)


def _route_constants(pairs: int, count: int, tile_rows: int) -> dict[str, int]:
    experts = power_of_two(count)
    chunk = max(min(power_of_two(pairs), 8192 // experts, 256), 16)
    return {
        "SORT": pairs <= SORT_TURNS * chunk,
        "EXPERTS": experts,
        "CHUNK": chunk,
        "ROWS": tile_rows,
    }


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
        _route_entry(chip, pairs, count)
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


def _route_entry(chip: int, pairs: int, count: int) -> Entry:
    constants = _route_constants(pairs, count, 16)
    ends = "*i32" if constants["SORT"] else "*i64"
    types = {"experts": "*i64", "order": "*i32", "ends": ends, "tiles": "*i32", "used": "*i32"}
    return Entry(
        name=f"moe route {pairs} of {count}",
        kernel=route_kernel,
        capability=chip,
        types=types | {"pairs": "i32", "most_tiles": "i32"},
        constants=constants,
        aligned=("experts", "order", "ends", "tiles", "used"),
        options={"num_warps": 4},
        max_registers=128,
    )


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
