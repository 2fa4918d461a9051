"""The least time that a step can take: bytes over bandwidth or operations over their rate.

A decode step reads every weight once and every key and value once:

    t = max((weight bytes + batch * context * kv bytes) / bandwidth,
            (2 * batch * weights + 4 * layers * heads * head_dim * context * batch) / flops)

and a prefill of S tokens computes, the causal half of attention alone and the head for one token,

    t = (2 * S * layer weights + 2 * head weights + 2 * layers * heads * head_dim * S^2) / flops
"""

from __future__ import annotations

from dataclasses import dataclass

from superinfer.costs.shapes import ModelShape


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What a device was measured to reach."""

    bytes_per_s: float
    """A large copy, bytes read and written."""
    flops: float
    """A large square product."""


def head_weights(shape: ModelShape) -> int:
    """Weights of the last projection."""
    return shape.vocab * shape.hidden


def streamed_weights(shape: ModelShape, batch: int = 1) -> float:
    """Weights that a decode step reads: all layers and the head; of the embedding only rows.

    Of a mixture the experts that at least one of `batch` rows is sent to, if each is as likely.
    """
    tables = head_weights(shape) * (1 if shape.tied_embeddings else 2)
    layers = shape.parameters - tables
    if shape.experts:
        share = 1 - shape.experts_per_token / shape.experts
        mlp = shape.layers * shape.experts * 3 * shape.hidden * shape.intermediate
        layers -= round(mlp * share**batch)
    return layers + head_weights(shape)


def active_weights(shape: ModelShape) -> float:
    """Weights that one token is multiplied with, the head included."""
    if not shape.experts:
        return streamed_weights(shape)
    per_expert = shape.layers * 3 * shape.hidden * shape.intermediate
    idle = (shape.experts - shape.experts_per_token) * per_expert
    return shape.parameters - head_weights(shape) - idle


def decode_floor_s(
    shape: ModelShape,
    batch: int,
    context: int,
    kv_bytes: float,
    ceilings: Ceilings,
    weight_bytes: float = 2.0,
) -> float:
    """Seconds of one decode step of `batch` sequences of `context` tokens.

    `kv_bytes` per token over all layers; `weight_bytes` per weight.
    """
    read = streamed_weights(shape, batch) * weight_bytes + batch * context * kv_bytes
    attention = 4 * shape.layers * shape.heads * shape.head_dim * context
    flops = batch * (2 * active_weights(shape) + attention)
    return max(read / ceilings.bytes_per_s, flops / ceilings.flops)


def prefill_floor_s(shape: ModelShape, tokens: int, ceilings: Ceilings) -> float:
    """Seconds of a prefill of one prompt."""
    layers = active_weights(shape) - head_weights(shape)
    attention = 2 * shape.layers * shape.heads * shape.head_dim * tokens**2
    return (2 * tokens * layers + 2 * head_weights(shape) + attention) / ceilings.flops
