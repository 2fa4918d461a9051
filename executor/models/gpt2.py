"""GPT-2: learned positions, LayerNorm with biases, a plain MLP with GELU in its tanh form.

Checkpoints keep matrices as [in, out] and queries, keys and values in one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from executor.kv.layout import KVLayout
from executor.models.base import Attention
from executor.models.config import ModelConfig
from executor.models.layers import Head, Linear, Loader, bias, load_head, times
from executor.models.weights import Piece
from executor.steps.step import StepInputs

_ALL = slice(None)


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """A norm with a bias."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one decoder layer."""

    attention_norm: LayerNorm
    qkv: Linear
    out: Linear
    mlp_norm: LayerNorm
    up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class Embedding:
    """Tokens and positions."""

    tokens: Tensor
    positions: Tensor

    def __call__(self, step: StepInputs) -> Tensor:
        return F.embedding(step.token_ids, self.tokens) + F.embedding(
            step.positions, self.positions
        )


class Gpt2:
    """The model on one rank."""

    def __init__(
        self,
        loader: Loader,
        layers: Sequence[Layer],
        embedding: Embedding,
        norm: LayerNorm,
        head: Head,
        layout: KVLayout,
        max_model_len: int,
    ) -> None:
        self.layout, self.max_model_len, self.device = layout, max_model_len, loader.device
        self.vocab = embedding.tokens.shape[0]
        self._layers, self._embedding, self._norm, self._head = layers, embedding, norm, head
        self._attend = Attention(loader.ops, layout, layout.head_dim**-0.5)

    def forward(self, step: StepInputs, arena: Tensor) -> Tensor:
        """One step; logits [wanted, vocab]."""
        with torch.inference_mode():
            return self._forward(step, arena)

    def _forward(self, step: StepInputs, arena: Tensor) -> Tensor:
        x = self._embedding(step)
        for index, layer in enumerate(self._layers):
            qkv = layer.qkv(layer.attention_norm(x)).unflatten(1, (3, -1, self.layout.head_dim))
            q, k, v = qkv.unbind(1)
            self._attend.write((q, k, v), step, arena, index)
            x = x + layer.out(self._attend(q, step, arena, index))
            inner = F.gelu(layer.up(layer.mlp_norm(x)), approximate="tanh")
            x = x + layer.down(inner)
        return self._head(self._norm(x[step.logit_rows]))


def load_gpt2(config: ModelConfig, loader: Loader, block_tokens: int, max_model_len: int) -> Gpt2:
    """The model, its layers laid out one after the other."""
    shape, top = config.shape, "transformer."
    heads = shape.gpu_heads(loader.group.size)
    layout = KVLayout(shape.layers, heads, shape.head_dim, block_tokens, loader.dtype)
    tokens = loader.tensor(Piece(top + "wte.weight", (shape.vocab, shape.hidden)))
    positions = loader.tensor(Piece(top + "wpe.weight", (shape.max_model_len, shape.hidden)))
    layers = [_layer(loader, config, f"{top}h.{n}.") for n in range(shape.layers)]
    norm = _norm(loader, config, top + "ln_f.")
    head = load_head(loader, tokens, config.tied_head)
    return Gpt2(loader, layers, Embedding(tokens, positions), norm, head, layout, max_model_len)


def _layer(loader: Loader, config: ModelConfig, prefix: str) -> Layer:
    hidden, inner = config.shape.hidden, config.shape.intermediate
    heads = times(loader.group.part(config.shape.heads), config.shape.head_dim)
    inside = loader.group.part(inner)
    return Layer(
        attention_norm=_norm(loader, config, prefix + "ln_1."),
        qkv=_qkv(loader, prefix + "attn.c_attn.", hidden, heads),
        out=_narrow(loader, prefix + "attn.c_proj.", (hidden, hidden), heads),
        mlp_norm=_norm(loader, config, prefix + "ln_2."),
        up=_wide(loader, prefix + "mlp.c_fc.", (hidden, inner), (inside,)),
        down=_narrow(loader, prefix + "mlp.c_proj.", (inner, hidden), inside),
    )


def _norm(loader: Loader, config: ModelConfig, prefix: str) -> LayerNorm:
    hidden = config.shape.hidden
    weight = loader.norm(prefix + "weight", hidden)
    return LayerNorm(weight, loader.tensor(bias(prefix + "bias", hidden)), config.norm_eps)


def _qkv(loader: Loader, prefix: str, hidden: int, heads: slice) -> Linear:
    """The rank's columns of each of the three."""
    parts = [slice(heads.start + n * hidden, heads.stop + n * hidden) for n in range(3)]
    return _wide(loader, prefix, (hidden, 3 * hidden), parts)


def _wide(loader: Loader, prefix: str, shape: tuple[int, int], parts: Sequence[slice]) -> Linear:
    """A matrix [in, out] of which the rank has some outputs."""
    return loader.linear(
        [Piece(prefix + "weight", shape, (_ALL, part), transposed=True) for part in parts],
        [bias(prefix + "bias", shape[1], part) for part in parts],
    )


def _narrow(loader: Loader, prefix: str, shape: tuple[int, int], part: slice) -> Linear:
    """A matrix [in, out] of which the rank has some inputs."""
    return loader.linear(
        [Piece(prefix + "weight", shape, (part, _ALL), transposed=True)],
        [bias(prefix + "bias", shape[1])],
        summed=True,
    )
