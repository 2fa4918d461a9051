"""Which pairs of a row and an expert are worked on together.

A *pair* is a row and one of its k experts: pair p is row p // k. Pairs are sorted by expert on the
device and cut into tiles of rows of one expert each; how many tiles there are is known to the
device alone, so that launches are as large as can be needed and programs without work return. No
size depends on the routing: the launches can be captured in a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from executor.kernels.registry import Entry
from executor.kernels.tiles import power_of_two

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


def route_entry(chip: int, pairs: int, count: int) -> Entry:
    """The kernel, where so many pairs are spread over `count` experts."""
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
