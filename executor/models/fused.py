"""Layers whose products do the norms, residuals and activations between them (`Ops.fuses`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from executor.kernels.ops import Ops
from executor.models.gated import GatedMlp, Layer
from executor.models.layers import Linear

Mix = Callable[[Layer, int, Tensor], Tensor]
"""Attention of a layer by its number, given queries, keys and values in one; [rows, heads * D]."""


@dataclass(frozen=True, slots=True)
class FusedLayers:
    """The layers of a decoder with plain 16-bit products, for a step of few rows."""

    layers: Sequence[Layer]
    mlps: Sequence[GatedMlp]
    gains: Sequence[Tensor]
    """Weights of the norm behind each layer: that of the next one, or the last."""
    eps: float
    ops: Ops

    @classmethod
    def of(cls, layers: Sequence[Layer], norm: Tensor, eps: float) -> FusedLayers | None:
        """None where a layer has codes, biases, experts, or sums over ranks."""
        mlps = [layer.mlp for layer in layers if isinstance(layer.mlp, GatedMlp)]
        products = [linear for layer in layers for linear in (layer.qkv, layer.out)]
        products += [linear for mlp in mlps for linear in (mlp.gate_up, mlp.down)]
        if len(mlps) < len(layers) or not all(_is_plain(linear) for linear in products):
            return None
        gains = [*(layer.attention_norm for layer in layers[1:]), norm]
        return cls(layers, mlps, gains, eps, products[0].ops)

    def __call__(self, x: Tensor, mix: Mix) -> Tensor:
        """What the last norm gets, of the embedded rows `x`."""
        ops, total, layers = self.ops, x, self.layers
        qkv = layers[0].qkv(ops.rms_norm(x, layers[0].attention_norm, self.eps)[0])
        for index, (layer, mlp) in enumerate(zip(layers, self.mlps, strict=True)):
            mixed = mix(layer, index, qkv)
            total, x, squares = ops.linear_add(mixed, layer.out.weight, total, layer.mlp_norm)
            inner = ops.linear_gated(x, squares, self.eps, mlp.gate_up.weight)
            total, x, squares = ops.linear_add(inner, mlp.down.weight, total, self.gains[index])
            if index + 1 < len(layers):
                qkv = ops.linear_normed(x, squares, self.eps, layers[index + 1].qkv.weight)
        return total


def _is_plain(linear: Linear) -> bool:
    return linear.scales is None and linear.bias is None and linear.group is None
