"""Norms, products and copies."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See `Ops.rms_norm`."""
    total = x if residual is None else (_wide(x) + _wide(residual)).to(x.dtype)
    wide = _wide(total)
    scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return (wide * scale * _wide(weight)).to(x.dtype), total


def largest(x: Tensor, out: Tensor) -> Tensor:
    """See `Ops.largest`."""
    return torch.argmax(x, dim=-1, out=out)


def silu_mul(x: Tensor) -> Tensor:
    """See `Ops.silu_mul`."""
    gate, up = _wide(x).chunk(2, dim=-1)
    return (F.silu(gate) * up).to(x.dtype)


def gelu_mul(x: Tensor) -> Tensor:
    """See `Ops.gelu_mul`."""
    gate, up = _wide(x).chunk(2, dim=-1)
    return (F.gelu(gate, approximate="tanh") * up).to(x.dtype)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """See `Ops.linear`."""
    return F.linear(x, weight)


def linear_int8(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """See `Ops.linear_int8`."""
    wide = _wide(x)
    return (wide @ weight.to(wide.dtype).T * scales.to(wide.dtype)).to(x.dtype)


def fuses(x: Tensor) -> bool:
    """See `Ops.fuses`: nothing is gained here."""
    return False


def linear_add(
    x: Tensor, weight: Tensor, residual: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See `Ops.linear_add`."""
    total = (F.linear(_wide(x), _wide(weight)) + _wide(residual)).to(x.dtype)
    wide = _wide(total)
    return total, (wide * _wide(gain)).to(x.dtype), wide.square().sum(dim=-1)[None]


def linear_normed(x: Tensor, squares: Tensor, eps: float, weight: Tensor) -> Tensor:
    """See `Ops.linear_normed`."""
    return _normed(x, squares, eps, weight).to(x.dtype)


def linear_gated(x: Tensor, squares: Tensor, eps: float, weight: Tensor) -> Tensor:
    """See `Ops.linear_gated`."""
    return silu_mul(_normed(x, squares, eps, weight)).to(x.dtype)


def _normed(x: Tensor, squares: Tensor, eps: float, weight: Tensor) -> Tensor:
    """Not rounded to the type of the rows."""
    scale = torch.rsqrt(squares.sum(dim=0) / x.shape[-1] + eps)
    return F.linear(_wide(x), _wide(weight)) * scale[:, None]


def moe(
    x: Tensor,
    weights: Tensor,
    experts: Tensor,
    gate_up: Tensor,
    down: Tensor,
    scales: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """See `Ops.moe`: one expert after the other, each on the rows that chose it."""
    out = torch.zeros_like(_wide(x))
    up_scales, down_scales = scales or (None, None)
    for expert in range(gate_up.shape[0]):
        rows, choices = (experts == expert).nonzero(as_tuple=True)
        if rows.numel():
            inner = silu_mul(_product(x[rows], gate_up, up_scales, expert))
            share = weights[rows, choices].to(out.dtype).unsqueeze(1)
            outer = _product(inner, down, down_scales, expert)
            out.index_add_(0, rows, outer.to(out.dtype) * share)
    return out.to(x.dtype)


def _product(x: Tensor, weight: Tensor, scales: Tensor | None, expert: int) -> Tensor:
    """With one expert's matrix."""
    if scales is None:
        return F.linear(x, weight[expert])
    return linear_int8(x, weight[expert], scales[expert])


def copy_blocks(arena: Tensor, sources: Tensor, targets: Tensor, nbytes: int) -> None:
    """See `Ops.copy_blocks`."""
    flat = arena.view(-1)
    for source, target in zip(sources.tolist(), targets.tolist(), strict=True):
        flat[target : target + nbytes] = flat[source : source + nbytes]


def _wide(x: Tensor) -> Tensor:
    """In float32, or in float64 if it came so."""
    return x if x.dtype == torch.float64 else x.float()
