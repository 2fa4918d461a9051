"""The checks of part `kernels`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from experiments.gpu_check.checks import Check, Result
from experiments.gpu_check.kernels.attention import decode_attention, prefill_attention
from experiments.gpu_check.kernels.blocks import copy_blocks, far_arena, requantise, rope_write
from experiments.gpu_check.kernels.cases import SHAPES
from experiments.gpu_check.kernels.dense import (
    activations,
    largest,
    linear,
    linear_int8,
    moe,
    rms_norm,
)
from experiments.gpu_check.kernels.drawing import drawn


def _by_shape(name: str, check: Callable[..., Result]) -> dict[str, Check]:
    """A check for each shape, so that they can run, and compile, side by side."""
    return {f"{name}-{shape}": partial(check, shape=shape) for shape in SHAPES}


CHECKS: dict[str, Check] = {
    **_by_shape("decode", decode_attention),
    **_by_shape("prefill", prefill_attention),
    **_by_shape("requantise", requantise),
    "linear": linear,
    "linear_int8": linear_int8,
    "moe": moe,
    "far_arena": far_arena,
    "rms_norm": rms_norm,
    "largest": largest,
    "activations": activations,
    "rope_write": rope_write,
    "copy_blocks": copy_blocks,
    "drawn": drawn,
}
