"""Norms, activations, products and experts: all that knows of no KV blocks."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from executor.models.weights import quantise_rows
from experiments.gpu_check.checks import Context, Result
from experiments.gpu_check.kernels import reference
from experiments.gpu_check.setting import ops_of, poison, randn, tolerance, verdict

EPS = 1e-5
LINEAR_ROWS = (1, 5, 16, 17, 32, 33, 100)
INT8_ROWS = (1, 5, 16, 17, 64, 300, 600)


def rms_norm(context: Context) -> Result:
    """With and without a residual."""
    ops, errors = ops_of(context), {}
    hiddens = (64, 320) if context.tiny else (256, 320, 4096, 8192)
    for rows, hidden, added in product((1, 7, 129), hiddens, (False, True)):
        x, weight = randn(context, rows, hidden), randn(context, hidden)
        residual = randn(context, rows, hidden) if added else None
        total = x if residual is None else (x.float() + residual.float()).to(x.dtype)
        poison(context)
        normed, summed = ops.rms_norm(x.clone(), weight, EPS, residual)
        name = f"{rows}x{hidden}{'+res' if added else ''}"
        errors[name] = reference.relative_error(normed, reference.rms_norm(total, weight, EPS))
        errors[name + " sum"] = reference.relative_error(summed, total)
    return verdict(errors, tolerance(context, 5e-3))


def largest(context: Context) -> Result:
    """Tokens of the largest logits, with ties: where torch finds them in float32."""
    ops, errors = ops_of(context), {}
    for rows, n in ((1, 5000),) if context.tiny else ((1, 128256), (33, 50257), (128, 128256)):
        x = randn(context, rows, n)
        x[:, n // 3] = x[:, n // 2] = x.amax(-1)
        out = torch.full((rows,), -1, dtype=torch.int64, device=x.device)
        equal = torch.equal(ops.largest(x, out), x.float().argmax(-1))
        errors[f"{rows}x{n}"] = 0.0 if equal else float("inf")
    return verdict(errors, 0.0)


def activations(context: Context) -> Result:
    """`silu_mul` and `gelu_mul`."""
    ops, errors = ops_of(context), {}
    widths = (96,) if context.tiny else (96, 1000, 14336)
    for rows, width in product((1, 33), widths):
        x = randn(context, rows, 2 * width)
        gate, up = x.double().chunk(2, dim=-1)
        poison(context)
        silu, gelu = ops.silu_mul(x), ops.gelu_mul(x)
        wanted = torch.nn.functional.silu(gate) * up
        errors[f"silu {rows}x{width}"] = reference.relative_error(silu, wanted)
        wanted = torch.nn.functional.gelu(gate, approximate="tanh") * up
        errors[f"gelu {rows}x{width}"] = reference.relative_error(gelu, wanted)
    return verdict(errors, tolerance(context, 5e-3))


def linear(context: Context) -> Result:
    """Products of few rows with weights of the model's type, whole tiles and cut ones; and of as
    many as may have tiles of their own (`NARROW` in `executor/kernels/linear.py`).
    """
    ops, errors = ops_of(context), {}
    sizes = ((96, 128),) if context.tiny else ((6144, 4096), (4096, 14336), (28700, 4096))
    for rows, (n, k) in product(LINEAR_ROWS, sizes):
        x, weight = randn(context, rows, k), randn(context, n, k)
        wanted = x.double() @ weight.double().T
        for time in range(2):
            poison(context)
            found = ops.linear(x, weight)
            errors[f"{rows}x{k}x{n} {time}"] = reference.relative_error(found, wanted)
    return verdict(errors, tolerance(context))


def linear_int8(context: Context) -> Result:
    """Products with int8 weights, from one row to more than a tile, and to more than those from
    which weights may be widened.
    """
    ops, errors = ops_of(context), {}
    sizes = ((96, 64), (130, 256)) if context.tiny else ((6144, 4096), (4096, 14336), (1000, 512))
    for rows, (n, k) in product(INT8_ROWS, sizes):
        x = randn(context, rows, k)
        weight = torch.randint(-127, 128, (n, k), dtype=torch.int8, device=context.device)
        scales = torch.rand(n, device=context.device) * 0.01 + 0.001
        poison(context)
        found = ops.linear_int8(x, weight, scales)
        wanted = x.double() @ weight.double().T * scales.double()
        errors[f"{rows}x{k}x{n}"] = reference.relative_error(found, wanted)
    return verdict(errors, tolerance(context))


def moe(context: Context) -> Result:
    """Mixtral's experts with few and many rows, their weights of the model's type and int8."""
    experts, chosen = 8, 2
    hidden, width = (64, 96) if context.tiny else (1024, 1792)
    gate_up = randn(context, experts, 2 * width, hidden, scale=hidden**-0.5)
    down = randn(context, experts, hidden, width, scale=width**-0.5)
    codes, scales = zip(*(_in_codes(matrix) for matrix in (gate_up, down)), strict=True)
    exact = [c.double() * s.double()[..., None] for c, s in zip(codes, scales, strict=True)]
    errors = {}
    for rows in (1, 3, 40) if context.tiny else (1, 3, 64, 200):
        x = randn(context, rows, hidden)
        logits = torch.rand(rows, experts, device=context.device)
        shares, some = torch.topk(torch.softmax(logits, -1), chosen)
        for name, weights, stands_for in (
            ("", (gate_up, down, None), (gate_up, down)),
            (" int8", (*codes, scales), exact),
        ):
            poison(context)
            found = ops_of(context).moe(x, shares.float(), some, *weights)
            wanted = reference.moe(x, shares, some, *stands_for)
            errors[f"{rows} rows{name}"] = reference.relative_error(found, wanted)
    return verdict(errors, tolerance(context))


def _in_codes(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The same in int8, with the scale of each row."""
    codes = torch.empty_like(matrix, dtype=torch.int8)
    scales = torch.empty(matrix.shape[:-1], dtype=torch.float32, device=matrix.device)
    quantise_rows(matrix, codes, scales)
    return codes, scales
