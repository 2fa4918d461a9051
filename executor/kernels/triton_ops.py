"""The operations in Triton."""

from __future__ import annotations

from executor.kernels.activation import gelu_mul, silu_mul
from executor.kernels.copy_blocks import copy_blocks
from executor.kernels.decode_attention import decode_attention
from executor.kernels.largest import largest
from executor.kernels.linear import linear, linear_int8
from executor.kernels.linear_fused import fuses, linear_add, linear_gated, linear_normed
from executor.kernels.moe import moe
from executor.kernels.prefill_attention import prefill_attention
from executor.kernels.requantise import requantise
from executor.kernels.rms_norm import rms_norm
from executor.kernels.rope_write import rope_write


class TritonOps:
    """`Ops` by Triton's kernels, on a GPU or in Triton's interpreter."""

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
