"""T5 and Flan-T5: an encoder that runs once, and a decoder that also attends to what it said.

The encoder's output becomes keys and values of every decoder layer once (`write_cross`). They lie
in ordinary blocks, so they have precisions and are swapped like any others, and the decoder reads
them by the same attention with another list of blocks (`CrossKeys`). Scores are not scaled; the
bias of relative positions is added in self-attention, of the first layer and for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from executor.kv.layout import KVLayout
from executor.models.base import Attention
from executor.models.config import ModelConfig
from executor.models.layers import Head, Linear, Loader, inputs, load_head, outputs, times
from executor.models.relative import bias_by_distance, square_bias
from executor.models.weights import Piece
from executor.steps.step import DecodeItems, PrefillChunks, StepInputs


@dataclass(slots=True)
class CrossKeys:
    """The encoder's blocks for the rows of a step, in the order of the step's rows."""

    decodes: int
    decode: DecodeItems | None
    prefill: PrefillChunks | None = None


@dataclass(frozen=True, slots=True)
class Mlp:
    """`down(middle(up(x)))`; a gated one has gate and up in one projection."""

    up: Linear
    middle: Callable[[Tensor], Tensor]
    down: Linear

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(self.middle(self.up(x)))


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """The weights of one encoder layer."""

    attention_norm: Tensor
    qkv: Linear
    out: Linear
    mlp_norm: Tensor
    mlp: Mlp


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """The weights of one decoder layer."""

    own: EncoderLayer
    """Attention over the decoder's own tokens, and the MLP."""
    cross_norm: Tensor
    cross_q: Linear
    cross_kv: Linear
    cross_out: Linear


@dataclass(frozen=True, slots=True)
class Stack:
    """What encoder and decoder have beside their layers."""

    norm: Tensor
    bias: Tensor
    """Float32 [heads, 2 * max_distance + 1], by distance."""


class T5:
    """The model on one rank. `layout` is that of the decoder's layers."""

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        config: ModelConfig,
        loader: Loader,
        embedding: Tensor,
        encoder: tuple[Sequence[EncoderLayer], Stack],
        decoder: tuple[Sequence[DecoderLayer], Stack],
        head: Head,
        layout: KVLayout,
        max_model_len: int,
    ) -> None:
        self.layout, self.max_model_len, self.device = layout, max_model_len, loader.device
        self.vocab, self.start_token = config.shape.vocab, config.start_token
        self._embedding, self._head = embedding, head
        self._encoder, self._decoder = encoder, decoder
        self._ops, self._eps = loader.ops, config.norm_eps
        self._head_scale = config.shape.hidden**-0.5 if config.scaled_head else 1.0
        self._attend = Attention(loader.ops, layout, 1.0)

    def encode(self, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
        """The encoder's output for each prompt, [tokens, hidden]; all in one padded batch."""
        lengths = [len(prompt) for prompt in prompts]
        padded = [[*prompt, *[0] * (max(lengths) - len(prompt))] for prompt in prompts]
        tokens = torch.tensor(padded).to(self.device)
        with torch.inference_mode():
            encoded = self._encode(tokens, torch.tensor(lengths).to(self.device))
        return [rows[:length] for rows, length in zip(encoded, lengths, strict=True)]

    def _encode(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        batch, length = tokens.shape
        layers, stack = self._encoder
        mask = self._encoder_mask(stack.bias, lengths, length)
        x, residual = F.embedding(tokens.flatten(), self._embedding), None
        for layer in layers:
            x, residual = self._ops.rms_norm(x, layer.attention_norm, self._eps, residual)
            qkv = layer.qkv(x).view(batch, length, 3, -1, self.layout.head_dim)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
            x = layer.out(mixed.transpose(1, 2).reshape(batch * length, -1))
            x, residual = self._ops.rms_norm(x, layer.mlp_norm, self._eps, residual)
            x = layer.mlp(x)
        normed: Tensor = self._ops.rms_norm(x, stack.norm, self._eps, residual)[0]
        return normed.view(batch, length, -1)

    def _encoder_mask(self, bias: Tensor, lengths: Tensor, length: int) -> Tensor:
        """Bias of every pair, minus infinity at padding: [batch, heads, length, length]."""
        padding = torch.arange(length, device=self.device) >= lengths[:, None]
        mask = square_bias(bias, length).masked_fill(padding[:, None, None], -torch.inf)
        return mask.to(self._embedding.dtype)

    def write_cross(
        self, encoded: Tensor, arena: Tensor, write_offsets: Tensor, write_slots: Tensor
    ) -> None:
        """Write the keys and values of every decoder layer for `encoded` [tokens, hidden].

        `write_offsets` int64 and `write_slots` int32 [tokens] say where, as in `StepInputs`.
        """
        with torch.inference_mode():
            for index, layer in enumerate(self._decoder[0]):
                both = layer.cross_kv(encoded).unflatten(1, (2, -1, self.layout.head_dim))
                k, v = both.unbind(1)
                self._ops.rope_write(
                    k,  # without a rotation neither queries nor positions are looked at
                    k,
                    v,
                    None,
                    None,
                    write_slots,
                    arena,
                    self.layout,
                    index,
                    write_offsets,
                    write_slots,
                )

    def forward(self, step: StepInputs, arena: Tensor, cross: CrossKeys | None = None) -> Tensor:
        """One step of the decoder; logits [wanted, vocab].

        Without `cross` cross-attention is left out, as if the encoder had said nothing.
        """
        with torch.inference_mode():
            return self._forward(step, arena, cross)

    def _forward(self, step: StepInputs, arena: Tensor, cross: CrossKeys | None) -> Tensor:
        x: Tensor = F.embedding(step.token_ids, self._embedding)
        residual: Tensor | None = None
        layers, stack = self._decoder
        for index, layer in enumerate(layers):
            own = layer.own
            x, residual = self._ops.rms_norm(x, own.attention_norm, self._eps, residual)
            x = own.out(self._mix(own, index, x, step, arena))
            if cross is not None:
                x, residual = self._ops.rms_norm(x, layer.cross_norm, self._eps, residual)
                q = layer.cross_q(x).unflatten(1, (-1, self.layout.head_dim))
                x = layer.cross_out(self._attend(q, cross, arena, index, causal=False))
            x, residual = self._ops.rms_norm(x, own.mlp_norm, self._eps, residual)
            x = own.mlp(x)
        assert residual is not None
        wanted, before = x[step.logit_rows], residual[step.logit_rows]
        normed = self._ops.rms_norm(wanted, stack.norm, self._eps, before)[0]
        return self._head(normed * self._head_scale)

    def _mix(
        self, layer: EncoderLayer, index: int, x: Tensor, step: StepInputs, arena: Tensor
    ) -> Tensor:
        """Self-attention of one decoder layer, its keys and values written first."""
        qkv = layer.qkv(x).unflatten(1, (3, -1, self.layout.head_dim))
        q, k, v = qkv.unbind(1)
        self._attend.write((q, k, v), step, arena, index)
        return self._attend(q, step, arena, index, self._decoder[1].bias)


def load_t5(config: ModelConfig, loader: Loader, block_tokens: int, max_model_len: int) -> T5:
    """The model, its layers laid out one after the other."""
    shape = config.shape
    heads = shape.gpu_heads(loader.group.size)
    layout = KVLayout(shape.layers, heads, shape.head_dim, block_tokens, loader.dtype)
    embedding = loader.tensor(Piece("shared.weight", (shape.vocab, shape.hidden)))
    parts = _Parts(config, loader)
    encoder = [parts.layer(f"encoder.block.{n}.layer.", mlp=1) for n in range(shape.encoder_layers)]
    decoder = [parts.decoder_layer(f"decoder.block.{n}.layer.") for n in range(shape.layers)]
    # Newer files call every head tied; one that is not they have all the same.
    tied = config.tied_head and not loader.weights.has("lm_head.weight")
    head = load_head(loader, embedding, tied)
    return T5(
        config,
        loader,
        embedding,
        (encoder, parts.stack("encoder.", both_ways=True)),
        (decoder, parts.stack("decoder.", both_ways=False)),
        head,
        layout,
        max_model_len,
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    """Loads parts by the prefix of their names."""

    config: ModelConfig
    loader: Loader

    def stack(self, prefix: str, both_ways: bool) -> Stack:
        config, shape = self.config, self.config.shape
        heads = self.loader.group.part(shape.heads)
        name = prefix + "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        weight = self.loader.tensor(
            Piece(name, (config.buckets, shape.heads), (slice(None), heads))
        )
        bias = bias_by_distance(weight, config.max_distance, both_ways)
        return Stack(self._norm(prefix + "final_layer_norm.weight"), bias)

    def decoder_layer(self, prefix: str) -> DecoderLayer:
        cross = prefix + "1.EncDecAttention."
        return DecoderLayer(
            own=self.layer(prefix, mlp=2),
            cross_norm=self._norm(prefix + "1.layer_norm.weight"),
            cross_q=self.loader.linear([self._heads(cross, "q")]),
            cross_kv=self.loader.linear([self._heads(cross, "k"), self._heads(cross, "v")]),
            cross_out=self._out(cross),
        )

    def layer(self, prefix: str, mlp: int) -> EncoderLayer:
        own = prefix + "0.SelfAttention."
        return EncoderLayer(
            attention_norm=self._norm(prefix + "0.layer_norm.weight"),
            qkv=self.loader.linear([self._heads(own, name) for name in "qkv"]),
            out=self._out(own),
            mlp_norm=self._norm(f"{prefix}{mlp}.layer_norm.weight"),
            mlp=self._mlp(f"{prefix}{mlp}.DenseReluDense."),
        )

    def _norm(self, name: str) -> Tensor:
        return self.loader.norm(name, self.config.shape.hidden)

    def _heads(self, prefix: str, name: str) -> Piece:
        """Some heads of a projection. Queries are as small as scores without a scale want them."""
        shape = self.config.shape
        piece = outputs(
            f"{prefix}{name}.weight",
            (shape.heads * shape.head_dim, shape.hidden),
            times(self.loader.group.part(shape.heads), shape.head_dim),
        )
        std = (shape.hidden * shape.head_dim) ** -0.5 if name == "q" else None
        return replace(piece, std=std)

    def _out(self, prefix: str) -> Linear:
        shape = self.config.shape
        columns = times(self.loader.group.part(shape.heads), shape.head_dim)
        whole = (shape.hidden, shape.heads * shape.head_dim)
        return self.loader.linear([inputs(prefix + "o.weight", whole, columns)], summed=True)

    def _mlp(self, prefix: str) -> Mlp:
        """ReLU, or gated GELU."""
        shape, loader = self.config.shape, self.loader
        part = loader.group.part(shape.intermediate)
        wide, narrow = (shape.intermediate, shape.hidden), (shape.hidden, shape.intermediate)
        names = ("wi_0", "wi_1") if shape.gated_mlp else ("wi",)
        up = loader.linear([outputs(f"{prefix}{name}.weight", wide, part) for name in names])
        down = loader.linear([inputs(prefix + "wo.weight", narrow, part)], summed=True)
        return Mlp(up, loader.ops.gelu_mul if shape.gated_mlp else torch.relu, down)
