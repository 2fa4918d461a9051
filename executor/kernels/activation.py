"""Gated activations: `f(gate) * up` of the two halves of a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from executor.kernels.early import is_early, let_next_begin, options, wait_for_last
from executor.kernels.registry import Entry
from executor.kernels.tiles import capability, power_of_two

TILE_ELEMENTS = 1024


@triton.jit(do_not_specialize=["rows"])
def gated_kernel(  # noqa: PLR0913, PLR0917
    x, out, rows, n,
    GELU: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """A tile of ROWS rows and WIDTH columns of the output."""
    let_next_begin(EARLY)
    wait_for_last(EARLY)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    there = (row < rows)[:, None] & (column < n)[None, :]
    at = row.to(tl.int64)[:, None] * n + column[None, :]
    gate_at = at + row.to(tl.int64)[:, None] * n
    gate = tl.load(x + gate_at, mask=there, other=0.0).to(tl.float32)
    up = tl.load(x + gate_at + n, mask=there, other=0.0).to(tl.float32)
    inner = gate
    if GELU:
        # 0.5 * (1 + tanh(u)) is sigmoid(2 * u), with u = sqrt(2 / pi) * (x + 0.044715 * x^3).
        inner = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
    result = gate * tl.sigmoid(inner) * up
    tl.store(out + at, result.to(out.dtype.element_ty), mask=there)


def silu_mul(x: Tensor) -> Tensor:
    """See `Ops.silu_mul`."""
    return _gated(x, gelu=False)


def gelu_mul(x: Tensor) -> Tensor:
    """See `Ops.gelu_mul`."""
    return _gated(x, gelu=True)


def _gated(x: Tensor, *, gelu: bool) -> Tensor:
    rows, n = x.shape[0], x.shape[1] // 2
    out = torch.empty((rows, n), dtype=x.dtype, device=x.device)
    if rows == 0:
        return out
    form = _form(n)
    grid = (triton.cdiv(rows, form["ROWS"]), triton.cdiv(n, form["WIDTH"]))
    early = is_early(capability(x.device), rows)
    gated_kernel[grid](
        x.contiguous(), out, rows, n, GELU=gelu, **form, EARLY=early, num_warps=4,
        **options(early),
    )  # fmt: skip
    return out


def _form(n: int) -> dict[str, int]:
    width = min(power_of_two(n), TILE_ELEMENTS)
    return {"ROWS": TILE_ELEMENTS // width, "WIDTH": width}


def entries() -> list[Entry]:
    """Both activations, for wide rows."""
    return [
        Entry(
            name=f"{'gelu' if gelu else 'silu'}_mul",
            kernel=gated_kernel,
            capability=capability,
            types={"x": "*bf16", "out": "*bf16", "rows": "i32", "n": "i32"},
            constants={"GELU": gelu, **_form(14336), "EARLY": capability == 90},
            aligned=("x", "out", "n"),
            options={"num_warps": 4},
            max_registers=40,
        )
        for capability in (80, 90)
        for gelu in (False, True)
    ]
