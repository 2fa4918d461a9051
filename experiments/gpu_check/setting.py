"""What checks share: the operations, types and random tensors of the device."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from executor.bench.attention import Heads
from executor.kernels.ops import Ops, ops_for
from executor.kv.layout import KVLayout
from experiments.gpu_check.checks import Context, Result

POISON_BYTES = 256 << 20
SMALL_POISON_BYTES = 1 << 19


def device_of(context: Context) -> torch.device:
    """The device; on a GPU tensors of float32 are multiplied as such."""
    return torch.device(context.device)


def ops_of(context: Context) -> Ops:
    """The operations under test: Triton's, also on a CPU where Triton is interpreted."""
    if context.tiny and os.environ.get("TRITON_INTERPRET") == "1":
        from executor.kernels.triton_ops import TritonOps

        return TritonOps()
    return ops_for(device_of(context))


def dtype_of(context: Context) -> torch.dtype:
    """bf16 on a GPU; Triton's interpreter has none, and float32 is what a CPU is good at."""
    if context.device != "cpu":
        return torch.bfloat16
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return torch.float16 if interpreted else torch.float32


def tolerance(context: Context, wide: float = 1e-2) -> float:
    """Largest relative error: `wide` for 16-bit types."""
    return 1e-5 if dtype_of(context) == torch.float32 else wide


def randn(context: Context, *shape: int, scale: float = 1.0) -> Tensor:
    """Fresh normal numbers of the type under test."""
    drawn = torch.randn(*shape, device=context.device) * scale
    return drawn.to(dtype_of(context))


def heads_of(context: Context, layers: int = 8) -> Heads:
    """Attention of Llama-3.1-8B; of fewer layers, which take turns all the same."""
    if context.tiny:
        return Heads(4, KVLayout(2, 2, 64, 32, dtype_of(context)))
    return Heads(32, KVLayout(layers, 8, 128, 32, dtype_of(context)))


def poison(context: Context) -> None:
    """Leave NaN in the memory that torch hands out next, so that unwritten outputs show."""
    if context.tiny:
        return
    torch.cuda.empty_cache()
    nan = float("nan")
    large = torch.full((POISON_BYTES // 4,), nan, device=context.device)
    small = [torch.full((SMALL_POISON_BYTES // 4,), nan, device=context.device) for _ in range(16)]
    torch.cuda.synchronize()
    del large, small


def verdict(errors: dict[str, float], limit: float, **more: Any) -> Result:
    """A result out of relative errors by case: all of them within the limit, or it says which."""
    bad = {name: error for name, error in errors.items() if not error <= limit}
    worst = max(errors.values(), default=0.0)
    result: Result = {"ok": not bad, "worst": worst, "limit": limit, "cases": len(errors), **more}
    result["errors"] = errors
    if bad:
        shown = ", ".join(f"{name} {error:.3g}" for name, error in list(bad.items())[:8])
        result["error"] = f"over {limit:g}: {shown}"
    return result
