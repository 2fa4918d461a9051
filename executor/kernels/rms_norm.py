"""Root-mean-square norm, with the residual added first."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from executor.kernels.early import is_early, let_next_begin, options, wait_for_last
from executor.kernels.registry import Entry
from executor.kernels.tiles import capability, power_of_two

TILE_ELEMENTS = 2048
"""Rows shorter than this share a program."""


@triton.jit(do_not_specialize=["rows"])
def rms_norm_kernel(  # noqa: PLR0913, PLR0917
    x,
    residual,
    weight,
    normed,
    total,
    rows,
    hidden,
    eps,
    HAS_RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One tile of ROWS whole rows; `total` is written only where there is a residual."""
    let_next_begin(EARLY)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    there = (row < rows)[:, None] & (column < hidden)[None, :]
    at = row.to(tl.int64)[:, None] * hidden + column[None, :]
    if EARLY:  # while it waits; else it would only take registers
        gain = tl.load(weight + column, mask=column < hidden, other=0.0).to(tl.float32)
    wait_for_last(EARLY)
    values = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        values += tl.load(residual + at, mask=there, other=0.0).to(tl.float32)
        # What the next layer adds to is what is normed here: both rounded alike.
        rounded = values.to(total.dtype.element_ty)
        tl.store(total + at, rounded, mask=there)
        values = rounded.to(tl.float32)
    mean = tl.sum(values * values, axis=1) / hidden
    scale = tl.rsqrt(mean + eps)
    if not EARLY:
        gain = tl.load(weight + column, mask=column < hidden, other=0.0).to(tl.float32)
    result = values * scale[:, None] * gain[None, :]
    tl.store(normed + at, result.to(normed.dtype.element_ty), mask=there)


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See `Ops.rms_norm`."""
    x = x.contiguous()
    rows, hidden = x.shape
    normed = torch.empty_like(x)
    total = x if residual is None else torch.empty_like(x)
    if rows == 0:
        return normed, total
    constants, form = _form(hidden)
    early = is_early(capability(x.device), rows)
    rms_norm_kernel[(triton.cdiv(rows, constants["ROWS"]),)](
        x,
        x if residual is None else residual.contiguous(),
        weight,
        normed,
        total,
        rows,
        hidden,
        eps,
        HAS_RESIDUAL=residual is not None,
        **constants,
        EARLY=early,
        **form,
        **options(early),
    )
    return normed, total


def _form(hidden: int) -> tuple[dict[str, int], dict[str, int]]:
    """Constants and options for rows of a length: about 32 elements per thread at the most."""
    width = power_of_two(hidden)
    rows = max(TILE_ELEMENTS // width, 1)
    warps = min(max(rows * width // 1024, 1), 16)
    return {"ROWS": rows, "WIDTH": width}, {"num_warps": power_of_two(warps)}


def entries() -> list[Entry]:
    """Norms of small and large models."""
    types = dict.fromkeys(("x", "residual", "weight", "normed", "total"), "*bf16")
    types |= {"rows": "i32", "hidden": "i32", "eps": "fp32"}

    def entry(capability: int, hidden: int, residual: bool) -> Entry:
        constants, options = _form(hidden)
        shared: dict[str, Any] = {"HAS_RESIDUAL": residual, **constants, "EARLY": capability == 90}
        return Entry(
            name=f"rms_norm {hidden}{' residual' if residual else ''}",
            kernel=rms_norm_kernel,
            capability=capability,
            types=types,
            constants=shared,
            aligned=("x", "residual", "weight", "normed", "total", "hidden"),
            options=options,
            max_registers=64,
            max_early_loads=4,
        )

    return [
        entry(capability, hidden, residual)
        for capability in (80, 90)
        for hidden, residual in ((256, True), (4096, True), (8192, False), (8192, True))
    ]
