"""Tables of rotary positions.

The frequencies follow the published rules (RoPE, arXiv 2104.09864, section 3.4.2; Llama 3.1's
scaling as in the `llama3` rope type of Hugging Face's configs). Angles are products in float32,
as those models were trained.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from executor.models.config import Rope


def rope_tables(
    rope: Rope, head_dim: int, positions: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 [positions, head_dim / 2]."""
    steps = torch.arange(positions, device=device, dtype=torch.float32)
    angles = torch.outer(steps, frequencies(rope, head_dim).to(device))
    return angles.cos(), angles.sin()


def frequencies(rope: Rope, head_dim: int) -> Tensor:
    """Radians per position of each rotated pair, float32 [head_dim / 2]."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    plain = 1.0 / rope.theta**exponents
    if rope.kind == "linear":
        return plain / rope.factor
    if rope.kind == "llama3":
        return _llama3(plain, rope)
    return plain


def _llama3(plain: Tensor, rope: Rope) -> Tensor:
    """High frequencies stay, low ones are divided by `factor`, those between are blended."""
    turns = rope.original_positions * plain / (2 * math.pi)
    span = rope.high_freq_factor - rope.low_freq_factor
    share = ((turns - rope.low_freq_factor) / span).clamp(0.0, 1.0)
    return (1 - share) * plain / rope.factor + share * plain
