"""Layers of the Llama family: their weights, the gated MLP, norms of heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from executor.kernels.ops import Ops
from executor.models.layers import Linear


@dataclass(frozen=True, slots=True)
class GatedMlp:
    """`down(silu(gate(x)) * up(x))`, gate and up in one projection."""

    gate_up: Linear
    down: Linear
    ops: Ops

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(self.ops.silu_mul(self.gate_up(x)))


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """Norms of each query and key head before they are rotated (Qwen3)."""

    q: Tensor
    k: Tensor
    eps: float
    ops: Ops

    def __call__(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self._norm(q, self.q), self._norm(k, self.k)

    def _norm(self, heads: Tensor, weight: Tensor) -> Tensor:
        rows = heads.reshape(-1, heads.shape[-1])
        return self.ops.rms_norm(rows, weight, self.eps)[0].view(heads.shape)


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one decoder layer."""

    attention_norm: Tensor
    qkv: Linear
    out: Linear
    mlp_norm: Tensor
    mlp: Callable[[Tensor], Tensor]
    head_norm: HeadNorm | None = None
