"""The same functions in plain torch: the truth for tests, and what runs on a CPU."""

from __future__ import annotations

from executor.kernels.reference.attention import decode_attention, prefill_attention, rope_write
from executor.kernels.reference.blocks import requantise
from executor.kernels.reference.dense import (
    copy_blocks,
    fuses,
    gelu_mul,
    largest,
    linear,
    linear_add,
    linear_gated,
    linear_int8,
    linear_normed,
    moe,
    rms_norm,
    silu_mul,
)


class TorchOps:
    """`Ops` in plain torch, on any device."""

    rms_norm = staticmethod(rms_norm)
    largest = staticmethod(largest)
    rope_write = staticmethod(rope_write)
    decode_attention = staticmethod(decode_attention)
    prefill_attention = staticmethod(prefill_attention)
    silu_mul = staticmethod(silu_mul)
    gelu_mul = staticmethod(gelu_mul)
    linear = staticmethod(linear)
    linear_int8 = staticmethod(linear_int8)
    fuses = staticmethod(fuses)
    linear_add = staticmethod(linear_add)
    linear_normed = staticmethod(linear_normed)
    linear_gated = staticmethod(linear_gated)
    moe = staticmethod(moe)
    requantise = staticmethod(requantise)
    copy_blocks = staticmethod(copy_blocks)
