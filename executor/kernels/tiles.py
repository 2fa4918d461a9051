"""Tile sizes and what else all kernels share.

Tiles are plain tables, by architecture and number of rows: Triton's autotuner would time kernels at
run time, so that two runs could sum in different orders. Numbers of rows are exempt from Triton's
specialisation on values (`do_not_specialize`): a new batch size must not wait for a compiler.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
INTERPRET = tl.constexpr(INTERPRETED)
"""Inside kernels: true where Triton's interpreter runs them, which computes bfloat16 wrongly."""
GROUP = 8
"""Tiles of rows that run side by side on the same weights."""


@triton.jit
def operand(x):
    """`x` as an operand of a dot or of arithmetic in its own type: float32 when interpreted."""
    if INTERPRET:
        x = x.to(tl.float32)
    return x


@triton.jit
def tile_of(program, row_tiles, out_tiles, GROUP: tl.constexpr):
    """Tile of rows and of outputs of a program: GROUP tiles of rows share weights in the L2."""
    per_group = GROUP * out_tiles
    first = program // per_group * GROUP
    height = tl.minimum(row_tiles - first, GROUP)
    inside = program % per_group
    return first + inside % height, inside // height


@dataclass(frozen=True)
class Tile:
    """Tile of a matrix product for up to `rows` rows of activations."""

    rows: int
    """Rows of activations in a tile; what chooses the tile is up to the kernel."""
    outs: int
    """Outputs (rows of the weights) in a tile."""
    depth: int
    """Elements of the summed dimension per turn of the loop."""
    warps: int
    stages: int
    """Copies in flight, the one in use included."""

    @property
    def options(self) -> dict[str, int]:
        """As Triton's launch takes them."""
        return {"num_warps": self.warps, "num_stages": self.stages}

    def constants(self, depth: int) -> dict[str, Any]:
        """Constants of a kernel that sums over `depth` elements."""
        sizes = {"ROWS": self.rows, "OUTS": self.outs, "DEPTH": self.depth}
        return sizes | {"EVEN": depth % self.depth == 0}


@cache
def capability(device: torch.device) -> int:
    """The column of the tile tables for a device: 80, or 90 for anything newer.

    The interpreter (tensors in host memory) uses the newest.
    """
    if device.type != "cuda":
        return 90
    major, _ = torch.cuda.get_device_capability(device)
    return 90 if major >= 9 else 80


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a device; of an H100 or H200 where there is none."""
    if device.type != "cuda":
        return 132
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def choose(tiles: Sequence[Tile], rows: int, itemsize: int = 2) -> Tile:
    """The first tile that takes all rows, else the last one; tiles are sorted by rows.

    Values of 4 bytes go without tensor cores, and larger tiles of them spill registers: the first.
    """
    if itemsize > 2:
        return tiles[0]
    return next((tile for tile in tiles if tile.rows >= rows), tiles[-1])


def types_of(tiles: Sequence[Tile]) -> list[tuple[Tile, str]]:
    """Which tiles to compile for which type: all for bfloat16, the first for the others."""
    return [(tile, "bf16") for tile in tiles] + [(tiles[0], "fp16"), (tiles[0], "fp32")]


def power_of_two(n: int) -> int:
    """The smallest power of two not under `n`."""
    return 1 << max(n - 1, 0).bit_length()
