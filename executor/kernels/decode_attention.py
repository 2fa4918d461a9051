"""Attention of single-token rows over work items of one precision each, and the merge of items.

Every item leaves its weighted sum of values, the largest score and the sum of weights
(`decode_items`); `merge_items` combines those of a row. Softmax does not care for the order of
keys, so the blocks of a row may be grouped by precision.
"""

# Kernels take what they need one by one.
# ruff: noqa: PLR0913, PLR0917

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from executor.kernels.common import BIASED, FORMS, NEVER, Form, padded_half, reach_of
from executor.kernels.decode_items import decode_items
from executor.kernels.early import is_early, let_next_begin, options, wait_for_last
from executor.kernels.registry import Entry
from executor.kernels.tiles import capability, power_of_two
from executor.kv.layout import KVLayout
from executor.steps.step import DecodeItems

TILES: dict[int, dict[str, int]] = {
    chip: {"tile": 32, "stages": 2, "byte_stages": 2, "nibble_stages": 4, "copied": 0}
    | {"registers": 168}
    for chip in (80, 90)
}
"""Per architecture: tokens of a tile of 16 or 8 bits (a tile of 4 bits is one block), stages of
copies by precision, whether the numbers of 4-bit tokens are copied as far ahead as their codes, and
registers of a thread at most. Twelve programs fit a multiprocessor of an H100 or H200, whose
registers and whose shared memory both end there (`items.PROGRAMS_AT_ONCE`)."""
COPIED: dict[str, int] = {"copied": 1}
"""Prepared: what changes of a table where the numbers of 4-bit tokens are copied."""
ASKED: dict[int, bool] = {80: False, 90: False}
"""Prepared, per architecture: whether programs that are launched early ask for the first blocks of
their items before they wait for the kernel before."""
LINE_BYTES = 128


class Merge(NamedTuple):
    """Form of the merge: items that a program takes at a time, and its warps."""

    tile: int
    warps: int


MERGE_FEW, MERGE_MANY = Merge(64, 4), Merge(8, 1)
MERGES = MERGE_FEW, MERGE_MANY
"""A few rows have many items each; many rows have few, and as many programs of one warp as there
are run at once."""
MANY_ROWS = 16


def merge_of(rows: int) -> Merge:
    """The merge for so many rows."""
    return MERGE_MANY if rows >= MANY_ROWS else MERGE_FEW


@triton.jit
def merge_items(
    sums, peaks, totals, row_items, out,
    HEADS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Combine the items of one row and head; zeros where there are none."""
    let_next_begin(EARLY)
    wait_for_last(EARLY)
    row = tl.program_id(0)
    head = tl.program_id(1)
    dims = tl.arange(0, WIDTH)
    inside = dims < D
    begin = tl.load(row_items + row)
    end = tl.load(row_items + row + 1)
    # One element wide, so that Triton keeps them as tensors through the loop.
    peak = tl.full([1], NEVER, tl.float32)
    total = tl.zeros([1], tl.float32)
    acc = tl.zeros([WIDTH], tl.float32)
    for start in range(begin, end, TILE):
        item = start + tl.arange(0, TILE)
        state = item.to(tl.int64) * HEADS + head
        there = item < end
        peaks_here = tl.load(peaks + state, mask=there, other=NEVER)
        totals_here = tl.load(totals + state, mask=there, other=0.0)
        # What an empty item left in `sums` is not defined.
        mask = (totals_here > 0)[:, None] & inside[None, :]
        part = tl.load(sums + state[:, None] * D + dims[None, :], mask=mask, other=0.0)
        new = tl.maximum(peak, tl.max(peaks_here, 0))
        keep = tl.exp2(peak - new)
        weights = tl.exp2(peaks_here - new)
        acc = acc * keep + tl.sum(part * weights[:, None], 0)
        total = total * keep + tl.sum(totals_here * weights, 0)
        peak = new
    result = tl.where(total > 0, acc / tl.where(total > 0, total, 1.0), 0.0)
    where = (row.to(tl.int64) * HEADS + head) * D + dims
    tl.store(out + where, result.to(out.dtype.element_ty), mask=inside)


def decode_attention(
    q: Tensor,
    arena: Tensor,
    layout: KVLayout,
    layer: int,
    items: DecodeItems,
    scale: float,
    bias: Tensor | None = None,
) -> Tensor:
    """See `kernels.ops`. Nothing launched here depends on lengths: a CUDA graph may hold it."""
    rows, heads, head_dim = q.shape
    capacity = items.bits.numel()
    sums = q.new_empty((capacity, heads, head_dim), dtype=torch.float32)
    # Each in memory of its own: behind an odd number of heads Triton would make another kernel.
    peaks, totals = (q.new_empty((capacity, heads), dtype=torch.float32) for _ in range(2))
    out = q.new_empty((rows, heads, head_dim))
    if not rows:
        return out
    chip = capability(q.device)
    tiles, early = TILES[chip], is_early(chip, rows)
    if capacity:
        decode_items[(capacity * layout.kv_heads,)](
            q, arena, sums, peaks, totals,
            items.bits, items.rows, items.first, items.tokens, items.positions,
            items.blocks.offsets, items.blocks.positions, bias,
            scale, q.stride(0), layer, reach_of(bias),
            **constants(layout, heads, tiles), EARLY=early, ASKED=early and ASKED[chip],
            num_warps=1, maxnreg=registers(layout, tiles), **options(early),
        )  # fmt: skip
    merge = merge_of(rows)
    merge_items[(rows, heads)](
        sums, peaks, totals, items.row_items, out,
        heads, head_dim, power_of_two(head_dim), merge.tile, early,
        num_warps=merge.warps, **options(early),
    )  # fmt: skip
    return out


def registers(layout: KVLayout, tiles: dict[str, int]) -> int:
    """Registers of a thread at most: a block of more tokens at once needs more of them."""
    return tiles["registers"] if layout.block_tokens <= 32 else 255


def constants(layout: KVLayout, heads: int, tiles: dict[str, int]) -> dict[str, int]:
    """Compile-time arguments of `decode_items`, `EARLY` and `ASKED` left out."""
    group = heads // layout.kv_heads
    return {
        "KV_HEADS": layout.kv_heads,
        "GROUP": group,
        "D": layout.head_dim,
        "T": layout.block_tokens,
        "N": max(8, power_of_two(group)),
        "PAD": padded_half(layout.head_dim),
        "PAIRS": padded_half(layout.head_dim),
        "WORDS": max(16, power_of_two(layout.head_dim // 4)),
        "TILE": min(tiles["tile"], layout.block_tokens),
        "STAGES": tiles["stages"],
        "BYTE_STAGES": tiles["byte_stages"],
        "NIBBLE_STAGES": tiles["nibble_stages"],
        # 16 tokens have too few numbers for a copy of four bytes by each thread.
        "COPIED": tiles["copied"] if layout.block_tokens >= 32 else 0,
        "LINES": power_of_two(
            2 * layout.block_tokens * layout.head_dim * layout.dtype.itemsize // LINE_BYTES
        ),
    }


def entries() -> list[Entry]:
    """Both kernels for every form."""
    found = []
    for chip, tiles in TILES.items():
        found += [_decode_entry(chip, form, tiles) for form in FORMS]
        forms = [form for form in FORMS if form.layout.block_tokens >= 32]
        found += [_decode_entry(chip, form, tiles | COPIED) for form in forms]
        found.append(_decode_entry(chip, BIASED, tiles, biased=True))
        found += [_merge_entry(chip, d, merge) for d in (64, 80, 128) for merge in MERGES]
    found += [_decode_entry(90, FORMS[0], TILES[90], early=True, asked=n) for n in (False, True)]
    found += [_merge_entry(90, FORMS[0].head_dim, merge, early=True) for merge in MERGES]
    return found


def _decode_entry(
    chip: int,
    form: Form,
    tiles: dict[str, int],
    *,
    biased: bool = False,
    early: bool = False,
    asked: bool = False,
) -> Entry:
    pointers = dict.fromkeys(("sums", "peaks", "totals"), "*fp32")
    pointers |= dict.fromkeys(("bits", "rows", "first", "tokens", "positions", "starts"), "*i32")
    pointers |= {"q": "*bf16", "arena": "*u8", "offsets": "*i64"}
    constant: dict[str, Any] = {**constants(form.layout, form.heads, tiles)}
    constant |= {"EARLY": early, "ASKED": asked}
    words = {"biased": biased, "copied": tiles["copied"], "early": early, "asked": asked}
    if biased:
        pointers["bias"] = "*fp32"
    else:
        constant["bias"] = None
    return Entry(
        name=f"decode_items {form}{''.join(f' {word}' for word, said in words.items() if said)}",
        kernel=decode_items,
        capability=chip,
        types=pointers | {"scale": "fp32", "q_stride": "i32", "layer": "i32", "reach": "i32"},
        constants=constant,
        aligned=(*pointers, "q_stride"),
        options={"num_warps": 1, "maxnreg": registers(form.layout, tiles)},
        max_early_loads=5 if asked else 0,
        dot=True,
        pipelined=True,
    )


def _merge_entry(chip: int, head_dim: int, merge: Merge, *, early: bool = False) -> Entry:
    pointers = dict.fromkeys(("sums", "peaks", "totals"), "*fp32")
    pointers |= {"row_items": "*i32", "out": "*bf16"}
    return Entry(
        name=f"merge_items {head_dim} by {merge.tile}{' early' if early else ''}",
        kernel=merge_items,
        capability=chip,
        types=pointers,
        constants={
            "HEADS": 32, "D": head_dim, "WIDTH": power_of_two(head_dim), "TILE": merge.tile,
            "EARLY": early,
        },
        aligned=tuple(pointers),
        options={"num_warps": merge.warps},
        max_registers=128,
    )  # fmt: skip
