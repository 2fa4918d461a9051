"""Matrix products with int8 weights, scaled per output channel, and of few rows with 16-bit ones.

The weights are the left operand of the dot and the activations, transposed, the right one: the
weights are converted in registers on their way from shared memory to the tensor cores, and a tile
of few rows wastes nothing, because 16 rows are a full width of the right operand. The scale is
applied after the dot, so that all codes, -127 to 127, are exact in bfloat16.

For few rows the weights are all that counts. Where they are codes, two warps are meant: with four,
and 64 outputs, Triton takes Hopper's `wgmma`, whose left operand has every thread read two codes at
a time and takes twice the instructions to convert them (read in the compiled code). From 64 rows on
the activations have to come from shared memory, as `wgmma` has them. Weights of 16 bits go to it as
they are. Where the tiles alone leave multiprocessors idle, several programs share the sum of each.
Tiles and limits are the fastest of those that were timed on an H200 (`experiments.gpu_check.tune`,
experiments/results/h200/predictions.md).

Products with 16-bit weights are launched early (`executor.kernels.early`): two programs fill a
multiprocessor's shared memory. Those with codes are not, for six fit: whichever multiprocessor ends
first would take six of the next kernel's, and the last one none. They let the next kernel begin.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from executor.kernels.early import is_early, let_next_begin, options, wait_for_last
from executor.kernels.registry import Entry
from executor.kernels.sums import (
    ask_for_weights,
    leave,
    parts_of,
    slice_of,
    sum_of_parts,
    tile_of_sums,
)
from executor.kernels.tiles import (
    GROUP,
    Tile,
    capability,
    choose,
    processors,
    tile_of,
    types_of,
)
from executor.kernels.widen import is_widened, widened_product

TILES: dict[int, tuple[Tile, ...]] = dict.fromkeys(
    (80, 90),
    (
        Tile(rows=16, outs=32, depth=256, warps=2, stages=4),
        Tile(rows=32, outs=64, depth=128, warps=2, stages=3),
        Tile(rows=64, outs=64, depth=128, warps=4, stages=4),
        Tile(rows=128, outs=128, depth=64, warps=8, stages=4),
    ),
)
"""For weights of 8 bits."""
WIDE: dict[int, tuple[Tile, ...]] = {
    80: (),
    90: (
        Tile(rows=16, outs=64, depth=128, warps=4, stages=4),
        Tile(rows=32, outs=64, depth=128, warps=4, stages=4),
    ),
}
"""For 16-bit weights; more rows than the last one has are the library's."""
NARROW: dict[int, tuple[Tile, ...]] = {80: (), 90: ()}
"""For 16-bit weights of more rows, where tiles of all outputs run at the same time, so that several
programs share each, and rows fill more than half of one. `SHARED_TILES` would stand there for 90 if
they are faster than the library, which no device has said yet
(experiments/results/h200/predictions.md)."""
SHARED_TILES = (
    Tile(rows=64, outs=128, depth=64, warps=4, stages=4),
    Tile(rows=128, outs=128, depth=64, warps=8, stages=4),
)
AHEAD = 2
"""Turns whose 16-bit weights a program asks for before it waits; more of them come too early."""

FEW = Tile(rows=16, outs=64, depth=128, warps=2, stages=4)
"""For few rows where all such tiles run at the same time."""
LARGEST = {90: Tile(rows=256, outs=128, depth=64, warps=8, stages=3)}
"""For many rows where there are enough such tiles."""
FLOAT32_TILE = Tile(rows=16, outs=32, depth=128, warps=2, stages=4)
"""For any number of rows of float32, which go without tensor cores."""
WARPS_PER_PROCESSOR = 8
"""Up to so many warps per multiprocessor tiles are shared among programs."""
LEAST_TURNS = 4
"""Turns of the loop that a program has at the least."""
MOST_SLICES = 8
FLOAT = torch.float32


@triton.jit(do_not_specialize=["m"])
def linear_kernel(  # noqa: PLR0913, PLR0917
    x,
    weight,
    scales,
    out,
    parts,
    arrived,
    m,
    n,
    k,
    ROWS: tl.constexpr,
    OUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    EVEN: tl.constexpr,
    GROUP: tl.constexpr,
    SLICES: tl.constexpr,
    AHEAD: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One tile of `out` [m, n], or a slice of its sum over k; EVEN: DEPTH divides k. `scales` is
    None where weights have the type of `x`.

    Of SLICES programs of a tile each leaves its sum in `parts` float32 [tiles, SLICES, OUTS, ROWS],
    and the one that ends last, which `arrived` int32 [tiles] tells, adds them up: in their order,
    so that the result does not depend on who was last. It leaves `arrived` at 0 again.
    """
    let_next_begin(EARLY)
    tile = tl.program_id(0) // SLICES
    part = tl.program_id(0) % SLICES
    row_tile, out_tile = tile_of(tile, tl.cdiv(m, ROWS), tl.cdiv(n, OUTS), GROUP)
    row = row_tile * ROWS + tl.arange(0, ROWS)
    channel = out_tile * OUTS + tl.arange(0, OUTS)
    # Channels past the end read the last one's weights, which costs no mask.
    safe = tl.minimum(channel, n - 1).to(tl.int64)
    begin, end = slice_of(part, k, DEPTH, SLICES)
    ask_for_weights(weight, safe, begin, k, DEPTH, AHEAD, EARLY)
    wait_for_last(EARLY)
    total = tile_of_sums(x, weight, row, safe, begin, end, m, k, ROWS, OUTS, DEPTH, EVEN)
    if SLICES > 1:
        of_tile = parts_of(parts, tile, ROWS, OUTS, SLICES)
        if leave(of_tile, total, part, arrived + tile, OUTS * ROWS) != SLICES - 1:
            return
        tl.store(arrived + tile, 0)
        total = sum_of_parts(of_tile, ROWS, OUTS, SLICES)
    if scales is not None:
        total *= tl.load(scales + channel, mask=channel < n, other=0.0).to(tl.float32)[:, None]
    result = tl.trans(total)
    at = out + row.to(tl.int64)[:, None] * n + channel[None, :]
    there = (row < m)[:, None] & (channel < n)[None, :]
    tl.store(at, result.to(out.dtype.element_ty), mask=there)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """See `Ops.linear`."""
    rows, chip = len(x), capability(x.device)
    tile = wide_tile(chip, rows, len(weight), processors(x.device))
    if tile is None or not rows or x.itemsize != 2 or x.dim() != 2:
        return F.linear(x, weight)
    return _product(x.contiguous(), weight, None, tile, is_early(chip, rows))


def linear_int8(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """See `Ops.linear_int8`."""
    if is_widened(x):
        return widened_product(x, weight, scales)
    (rows, _), outs, chip = x.shape, len(weight), capability(x.device)
    tile = tile_of_product(chip, rows, outs, x.itemsize, processors(x.device))
    return _product(x, weight, scales, tile, early=False)


def _product(x: Tensor, weight: Tensor, scales: Tensor | None, tile: Tile, early: bool) -> Tensor:
    """`early`: launched before the kernel before has ended."""
    (m, k), n = x.shape, weight.shape[0]
    out = torch.empty((m, n), dtype=x.dtype, device=x.device)
    if m == 0:
        return out
    tiles = triton.cdiv(m, tile.rows) * triton.cdiv(n, tile.outs)
    slices, parts = shared(x, tile, tiles)
    linear_kernel[(tiles * slices,)](
        x, weight, scales, out, parts, arrived_of(x.device), m, n, k,
        **_constants(tile, k, slices), AHEAD=AHEAD if early else 0,
        EARLY=is_early(capability(x.device), m), **tile.options, **options(early),
    )  # fmt: skip
    return out


def wide_tile(chip: int, rows: int, outs: int, multiprocessors: int) -> Tile | None:
    """The tile of a product with 16-bit weights; None: the library's."""
    fits = (t for t in NARROW[chip] if triton.cdiv(outs, t.outs) <= multiprocessors)
    shared = (tile for tile in fits if rows > tile.rows // 2)
    return next((tile for tile in (*WIDE[chip], *shared) if rows <= tile.rows), None)


def tile_of_product(chip: int, rows: int, outs: int, itemsize: int, multiprocessors: int) -> Tile:
    """The tile of a product of `rows` and `outs` outputs."""
    if itemsize > 2:
        return FLOAT32_TILE
    if rows <= FEW.rows and triton.cdiv(outs, FEW.outs) <= (
        WARPS_PER_PROCESSOR // FEW.warps * multiprocessors
    ):
        return FEW
    tile = choose(TILES[chip], rows)
    larger = LARGEST.get(chip)
    if larger is None or rows <= tile.rows:
        return tile
    tiles = triton.cdiv(rows, larger.rows) * triton.cdiv(outs, larger.outs)
    return larger if tiles >= multiprocessors else tile


def shared(x: Tensor, tile: Tile, tiles: int) -> tuple[int, Tensor]:
    """How many programs share each of so many tiles of a product of `x`, and room for their sums,
    float32 [tiles * programs, outs, rows] if they are several.
    """
    programs = WARPS_PER_PROCESSOR // tile.warps * processors(x.device)
    slices = slices_of(tiles, triton.cdiv(x.shape[1], tile.depth), programs)
    room = (tiles * slices, tile.outs, tile.rows) if slices > 1 else (0,)
    return slices, x.new_empty(room, dtype=FLOAT)


def slices_of(tiles: int, turns: int, programs: int) -> int:
    """Programs that share a tile's sum, a power of two, so that there are `programs` at most.

    One where there are enough tiles, or a program would have too few turns of its loop.
    """
    slices = 1
    while (
        2 * slices * tiles <= programs
        and turns >= 2 * slices * LEAST_TURNS
        and slices < MOST_SLICES
    ):
        slices *= 2
    return slices


@cache
def arrived_of(device: torch.device) -> Tensor:
    """Zeros that every launch leaves as zeros, one for each tile that can be shared.

    There is one set for a device: products must not run side by side on two streams.
    """
    return torch.zeros(WARPS_PER_PROCESSOR * processors(device), dtype=torch.int32, device=device)


def _constants(tile: Tile, k: int, slices: int = 1) -> dict[str, Any]:
    return tile.constants(k) | {"GROUP": GROUP, "SLICES": slices}


def entries() -> list[Entry]:
    """Every tile for bfloat16, and the first one for the other types."""
    found = [
        _entry(chip, FLOAT32_TILE if dtype == "fp32" else tile, dtype)
        for chip, tiles in TILES.items()
        for tile, dtype in types_of(tiles)
    ]
    found += [_entry(chip, FEW, "bf16", slices) for chip in TILES for slices in (1, 4)]
    found += [_entry(chip, tile, "bf16") for chip, tile in LARGEST.items()]
    tiles = (*WIDE[90], *SHARED_TILES)
    return found + [_wide_entry(90, tile, slices) for tile in tiles for slices in (1, 4)]


def _entry(chip: int, tile: Tile, dtype: str, slices: int = 1) -> Entry:
    types = {"x": f"*{dtype}", "weight": "*i8", "scales": "*fp32", "out": f"*{dtype}"}
    types |= {"parts": "*fp32", "arrived": "*i32"}
    return Entry(
        name=f"linear_int8 {tile.rows}x{tile.outs}x{tile.depth} {dtype}"
        + (f" in {slices} slices" if slices > 1 else ""),
        kernel=linear_kernel,
        capability=chip,
        types=types | {"m": "i32", "n": "i32", "k": "i32"},
        constants=_constants(tile, 8192, slices) | {"AHEAD": 0, "EARLY": is_early(chip, tile.rows)},
        aligned=("x", "weight", "scales", "out", "parts", "arrived", "n", "k"),
        options=tile.options,
        max_registers=224,
        dot=dtype != "fp32",
        pipelined=dtype != "fp32",
    )


def _wide_entry(chip: int, tile: Tile, slices: int) -> Entry:
    types = {"x": "*bf16", "weight": "*bf16", "out": "*bf16", "parts": "*fp32", "arrived": "*i32"}
    early = is_early(chip, tile.rows)
    constants = _constants(tile, 4096, slices) | {"scales": None}
    constants |= {"AHEAD": AHEAD if early else 0, "EARLY": early}
    return Entry(
        name=f"linear {tile.rows}x{tile.outs}x{tile.depth}"
        + (f" in {slices} slices" if slices > 1 else ""),
        kernel=linear_kernel,
        capability=chip,
        types=types | {"m": "i32", "n": "i32", "k": "i32"},
        constants=constants,
        aligned=(*types, "n", "k"),
        options=tile.options,
        max_registers=128 if early else 160,
        dot=True,
        pipelined=True,
    )
