"""Whole engines on the same requests: ours and transformers' continuous batching."""

from __future__ import annotations

from executor.bench.engines import Load, engines
from experiments.gpu_check.checks import Check, Context, Result
from experiments.gpu_check.floors import rows_of
from experiments.gpu_check.small import tiny_config


def both(context: Context) -> Result:
    """Llama-3.1-8B in bf16, 64 requests of 512 and 128 tokens."""
    load = Load("llama-3.1-8b", context.device, "bfloat16")
    if context.tiny:
        load = Load(tiny_config(context), context.device, "float32", 4, 40, 6, 4)
    return rows_of(list(engines(load)))


CHECKS: dict[str, Check] = {"both": both}
