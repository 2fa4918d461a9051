"""The Llama family: Llama 2 to 3.2, Mistral, Qwen2 and Qwen3, and the frame of Mixtral.

Pre-norm decoders with rotary positions, grouped KV heads and a gated MLP. They differ in biases of
the projections (Qwen2), a norm of each query and key head (Qwen3) and the scaling of rotary
frequencies (`rope`). Tensor names are those of Hugging Face's checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from executor.kv.layout import KVLayout
from executor.models.base import Attention
from executor.models.config import ModelConfig
from executor.models.fused import FusedLayers
from executor.models.gated import GatedMlp, HeadNorm, Layer
from executor.models.layers import Head, Linear, Loader, bias, inputs, load_head, outputs, times
from executor.models.rope import rope_tables
from executor.models.weights import Piece
from executor.steps.step import StepInputs


class Llama:
    """A model of the family on one rank."""

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        config: ModelConfig,
        loader: Loader,
        layers: Sequence[Layer],
        embedding: Tensor,
        norm: Tensor,
        head: Head,
        layout: KVLayout,
        max_model_len: int,
    ) -> None:
        self.layout, self.max_model_len, self.device = layout, max_model_len, loader.device
        self.vocab = config.shape.vocab
        self._layers, self._embedding, self._norm, self._head = layers, embedding, norm, head
        self._ops, self._eps = loader.ops, config.norm_eps
        self._fused = FusedLayers.of(layers, norm, config.norm_eps)
        self._heads = config.shape.gpu_heads(loader.group.size)
        self._attend = Attention(loader.ops, layout, layout.head_dim**-0.5)
        self._cos, self._sin = rope_tables(
            config.rope, layout.head_dim, max_model_len, loader.device
        )

    def forward(self, step: StepInputs, arena: Tensor) -> Tensor:
        """One step; logits [wanted, vocab]."""
        with torch.inference_mode():
            return self._forward(step, arena)

    def _forward(self, step: StepInputs, arena: Tensor) -> Tensor:
        x: Tensor = F.embedding(step.token_ids, self._embedding)
        if self._fused is not None and self._ops.fuses(x):

            def mix(layer: Layer, index: int, qkv: Tensor) -> Tensor:
                return self._mix(layer, index, qkv, step, arena)

            wanted, before = self._fused(x, mix)[step.logit_rows], None
        else:
            x, residual = self._plain(x, step, arena)
            wanted, before = x[step.logit_rows], residual[step.logit_rows]
        return self._head(self._ops.rms_norm(wanted, self._norm, self._eps, before)[0])

    def _plain(self, x: Tensor, step: StepInputs, arena: Tensor) -> tuple[Tensor, Tensor]:
        """All layers: the output of the last one and what it is to be added to."""
        residual: Tensor | None = None
        for index, layer in enumerate(self._layers):
            x, residual = self._ops.rms_norm(x, layer.attention_norm, self._eps, residual)
            x = layer.out(self._mix(layer, index, layer.qkv(x), step, arena))
            x, residual = self._ops.rms_norm(x, layer.mlp_norm, self._eps, residual)
            x = layer.mlp(x)
        assert residual is not None
        return x, residual

    def _mix(
        self, layer: Layer, index: int, qkv: Tensor, step: StepInputs, arena: Tensor
    ) -> Tensor:
        """Attention of one layer, its keys and values written first."""
        q, k, v = self._split(qkv)
        if layer.head_norm is not None:
            q, k = layer.head_norm(q, k)
        self._attend.write((q, k, v), step, arena, index, self._cos, self._sin)
        return self._attend(q, step, arena, index)

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as views [rows, heads, D]."""
        heads = qkv.unflatten(1, (-1, self.layout.head_dim))
        q, k, v = heads.split((self._heads, self.layout.kv_heads, self.layout.kv_heads), dim=1)
        return q, k, v


LoadMlp = Callable[[Loader, ModelConfig, str], Callable[[Tensor], Tensor]]


def load_gated_mlp(loader: Loader, config: ModelConfig, prefix: str) -> GatedMlp:
    """The dense MLP of one layer."""
    shape, mlp = config.shape, prefix + "mlp."
    rows = loader.group.part(shape.intermediate)
    wide, narrow = (shape.intermediate, shape.hidden), (shape.hidden, shape.intermediate)
    names = (mlp + "gate_proj", mlp + "up_proj")
    wide_biases = [bias(name + ".bias", shape.intermediate, rows) for name in names]
    narrow_biases = [bias(mlp + "down_proj.bias", shape.hidden)]
    return GatedMlp(
        loader.linear(
            [outputs(name + ".weight", wide, rows) for name in names],
            wide_biases if config.mlp_bias else (),
        ),
        loader.linear(
            [inputs(mlp + "down_proj.weight", narrow, rows)],
            narrow_biases if config.mlp_bias else (),
            summed=True,
        ),
        loader.ops,
    )


def load_llama(
    config: ModelConfig,
    loader: Loader,
    block_tokens: int,
    max_model_len: int,
    load_mlp: LoadMlp = load_gated_mlp,
) -> Llama:
    """The model, its layers laid out one after the other."""
    shape = config.shape
    layout = KVLayout(
        shape.layers,
        shape.gpu_kv_heads(loader.group.size),
        shape.head_dim,
        block_tokens,
        loader.dtype,
    )
    embedding = loader.tensor(Piece("model.embed_tokens.weight", (shape.vocab, shape.hidden)))
    layers = [_layer(loader, config, f"model.layers.{n}.", load_mlp) for n in range(shape.layers)]
    norm = loader.norm("model.norm.weight", shape.hidden)
    head = load_head(loader, embedding, config.tied_head)
    return Llama(config, loader, layers, embedding, norm, head, layout, max_model_len)


def _layer(loader: Loader, config: ModelConfig, prefix: str, load_mlp: LoadMlp) -> Layer:
    hidden = config.shape.hidden
    return Layer(
        attention_norm=loader.norm(prefix + "input_layernorm.weight", hidden),
        qkv=_qkv(loader, config, prefix + "self_attn."),
        out=_out(loader, config, prefix + "self_attn.o_proj."),
        mlp_norm=loader.norm(prefix + "post_attention_layernorm.weight", hidden),
        mlp=load_mlp(loader, config, prefix),
        head_norm=_head_norm(loader, config, prefix + "self_attn.") if config.qk_norm else None,
    )


def _qkv(loader: Loader, config: ModelConfig, prefix: str) -> Linear:
    """Queries, keys and values of this rank's heads in one projection."""
    shape, group, width = config.shape, loader.group, config.shape.head_dim
    q, kv = group.part(shape.heads), group.kv_part(shape.kv_heads)
    pieces, biases = [], []
    for name, count, heads in (
        ("q_proj", shape.heads, q),
        ("k_proj", shape.kv_heads, kv),
        ("v_proj", shape.kv_heads, kv),
    ):
        length, rows = count * width, times(heads, width)
        pieces.append(outputs(f"{prefix}{name}.weight", (length, shape.hidden), rows))
        biases.append(bias(f"{prefix}{name}.bias", length, rows))
    return loader.linear(pieces, biases if config.qkv_bias else ())


def _out(loader: Loader, config: ModelConfig, prefix: str) -> Linear:
    shape = config.shape
    columns = times(loader.group.part(shape.heads), shape.head_dim)
    weight = inputs(prefix + "weight", (shape.hidden, shape.heads * shape.head_dim), columns)
    biases = [bias(prefix + "bias", shape.hidden)]
    return loader.linear([weight], biases if config.out_bias else (), summed=True)


def _head_norm(loader: Loader, config: ModelConfig, prefix: str) -> HeadNorm:
    width = config.shape.head_dim
    return HeadNorm(
        loader.norm(prefix + "q_norm.weight", width),
        loader.norm(prefix + "k_norm.weight", width),
        config.norm_eps,
        loader.ops,
    )
