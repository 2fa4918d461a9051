"""Rotary position embedding of queries and keys, and the write of keys and values to blocks."""

# Kernels take what they need one by one.
# ruff: noqa: PLR0913, PLR0917

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from executor.kernels.common import BIASED, FORMS, Form, padded_half
from executor.kernels.early import is_early, let_next_begin, options, wait_for_last
from executor.kernels.registry import Entry
from executor.kernels.tiles import capability
from executor.kv.layout import KVLayout

ROWS = 8
"""Rows of a program."""
NUM_WARPS = 4


@triton.jit
def _rotate(low, high, cos, sin):
    return low * cos - high * sin, high * cos + low * sin


@triton.jit(do_not_specialize=["rows", "layer"])
def rotate_and_write(
    q, k, v, cos, sin, positions, arena, offsets, slots,
    rows, layer, q_stride, k_stride, v_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, T: tl.constexpr,
    PAD: tl.constexpr, ROWS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """A few rows of one head: KV heads come first, then, with a rotation, query heads."""
    let_next_begin(EARLY)
    wait_for_last(EARLY)
    HALF: tl.constexpr = D // 2
    DTYPE: tl.constexpr = k.dtype.element_ty
    head = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    dims = tl.arange(0, PAD)
    mask = there[:, None] & (dims < HALF)[None, :]
    if cos is not None:
        angle = tl.load(positions + row, mask=there, other=0).to(tl.int64)
        angles = angle[:, None] * HALF + dims[None, :]
        c = tl.load(cos + angles, mask=mask, other=0.0)
        s = tl.load(sin + angles, mask=mask, other=0.0)
    wide = row.to(tl.int64)
    if head >= KV_HEADS:
        if cos is not None:
            source = q + wide[:, None] * q_stride + (head - KV_HEADS) * D + dims[None, :]
            low = tl.load(source, mask=mask, other=0.0).to(tl.float32)
            high = tl.load(source + HALF, mask=mask, other=0.0).to(tl.float32)
            low, high = _rotate(low, high, c, s)
            tl.store(source, low.to(DTYPE), mask=mask)
            tl.store(source + HALF, high.to(DTYPE), mask=mask)
    else:
        slot = tl.load(slots + row, mask=there, other=-1)
        offset = tl.load(offsets + row, mask=there, other=0)
        UNIT: tl.constexpr = 2 * T * D * DTYPE.primitive_bitwidth // 8
        unit = arena + tl.multiple_of(offset, 16) + (layer * KV_HEADS + head) * UNIT
        target = unit.to(tl.pointer_type(DTYPE))[:, None] + (slot[:, None] * D + dims[None, :])
        write = mask & (slot >= 0)[:, None]
        source = k + wide[:, None] * k_stride + head * D + dims[None, :]
        low = tl.load(source, mask=mask, other=0.0)
        high = tl.load(source + HALF, mask=mask, other=0.0)
        if cos is not None:
            low, high = _rotate(low.to(tl.float32), high.to(tl.float32), c, s)
        tl.store(target, low.to(DTYPE), mask=write)
        tl.store(target + HALF, high.to(DTYPE), mask=write)
        source = v + wide[:, None] * v_stride + head * D + dims[None, :]
        target += T * D
        tl.store(target, tl.load(source, mask=mask, other=0.0), mask=write)
        tl.store(target + HALF, tl.load(source + HALF, mask=mask, other=0.0), mask=write)


def rope_write(
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
    rows, heads, _ = q.shape
    if not rows:
        return
    early = is_early(capability(q.device), rows)
    programs = layout.kv_heads + (heads if cos is not None else 0)
    rotate_and_write[(triton.cdiv(rows, ROWS), programs)](
        q, k, v, cos, sin, positions, arena, write_offsets, write_slots,
        rows, layer, q.stride(0), k.stride(0), v.stride(0),
        **constants(layout, heads), EARLY=early, num_warps=NUM_WARPS, **options(early),
    )  # fmt: skip


def constants(layout: KVLayout, heads: int) -> dict[str, int]:
    """Compile-time arguments of `rotate_and_write`, `EARLY` left out."""
    return {
        "HEADS": heads,
        "KV_HEADS": layout.kv_heads,
        "D": layout.head_dim,
        "T": layout.block_tokens,
        "PAD": padded_half(layout.head_dim),
        "ROWS": ROWS,
    }


def entries() -> list[Entry]:
    """Every form with a rotation, and one without."""
    found = []
    for chip in (80, 90):
        found += [_entry(chip, form) for form in FORMS]
        found.append(_entry(chip, BIASED, rotated=False))
    found.append(_entry(90, FORMS[0], early=True))
    return found


def _entry(chip: int, form: Form, rotated: bool = True, early: bool = False) -> Entry:
    pointers = dict.fromkeys(("q", "k", "v"), "*bf16")
    pointers |= {"positions": "*i32", "slots": "*i32", "offsets": "*i64", "arena": "*u8"}
    constant: dict[str, Any] = {**constants(form.layout, form.heads), "EARLY": early}
    if rotated:
        pointers |= {"cos": "*fp32", "sin": "*fp32"}
    else:
        constant |= {"cos": None, "sin": None}
    integers = dict.fromkeys(("rows", "layer", "q_stride", "k_stride", "v_stride"), "i32")
    return Entry(
        name=f"rotate_and_write {form}{'' if rotated else ' without rotation'}"
        f"{' early' if early else ''}",
        kernel=rotate_and_write,
        capability=chip,
        types=pointers | integers,
        constants=constant,
        aligned=(*pointers, "q_stride", "k_stride", "v_stride"),
        options={"num_warps": NUM_WARPS},
        max_registers=128,
    )
