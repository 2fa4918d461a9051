"""The shipped model while it is trained: a Llama as a function of its weights.

Weights are a dictionary under the names of Hugging Face, float32; the arithmetic of a layer is of
the type asked for, with float32 residuals, norms and loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from executor.shipped import END, PAD


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; the defaults are the ones that ship, 3.9 million weights."""

    hidden: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    intermediate: int = 576
    vocab: int = 264
    """256 bytes and two marks, filled up to a multiple of 8 for the tensor cores."""
    context: int = 10240
    rope_theta: float = 100_000.0
    eps: float = 1e-5

    def config(self, dtype: str) -> dict[str, Any]:
        """`config.json` of Hugging Face."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": dtype,
            "torch_dtype": dtype,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.eps,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": END,
            "pad_token_id": PAD,
        }


def initial_weights(shape: Shape, seed: int, device: torch.device) -> dict[str, Tensor]:
    """Normal with deviation 0.02, the projections into the residual less by the depth."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, size in sizes(shape).items():
        weight = torch.empty(size)
        if len(size) == 1:
            weight.fill_(1.0)
        else:
            deep = name.endswith(("o_proj.weight", "down_proj.weight"))
            weight.normal_(
                0, 0.02 / (math.sqrt(2 * shape.layers) if deep else 1), generator=generator
            )
        made[name] = weight.to(device).requires_grad_()
    return made


def sizes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The size of each weight."""
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (shape.hidden,),
        "self_attn.q_proj": (q, shape.hidden),
        "self_attn.k_proj": (kv, shape.hidden),
        "self_attn.v_proj": (kv, shape.hidden),
        "self_attn.o_proj": (shape.hidden, q),
        "post_attention_layernorm": (shape.hidden,),
        "mlp.gate_proj": (shape.intermediate, shape.hidden),
        "mlp.up_proj": (shape.intermediate, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.intermediate),
    }
    layers = {
        f"model.layers.{index}.{name}.weight": size
        for index in range(shape.layers)
        for name, size in layer.items()
    }
    embedding = {"model.embed_tokens.weight": (shape.vocab, shape.hidden)}
    return embedding | layers | {"model.norm.weight": (shape.hidden,)}


@dataclass(frozen=True)
class Pass:
    """How the model is run: its weights, the type of its arithmetic, dropout of branches."""

    shape: Shape
    weights: dict[str, Tensor]
    dtype: torch.dtype
    dropout: float = 0.0

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean nats of each token after the first; `tokens` int64 [batch, length]."""
        logits = self.logits(tokens[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())

    def logits(self, tokens: Tensor) -> Tensor:
        """[batch, length, vocab]."""
        embedding = self.weights["model.embed_tokens.weight"]
        hidden = self._drop(F.embedding(tokens, embedding))
        turns = self._turns(tokens.shape[1], tokens.device)
        for index in range(self.shape.layers):
            prefix = f"model.layers.{index}"
            normed = self._norm(hidden, f"{prefix}.input_layernorm")
            hidden = hidden + self._drop(self._attention(normed, f"{prefix}.self_attn", turns))
            normed = self._norm(hidden, f"{prefix}.post_attention_layernorm")
            hidden = hidden + self._drop(self._mlp(normed, f"{prefix}.mlp"))
        return F.linear(self._norm(hidden, "model.norm"), embedding.to(self.dtype))

    def _attention(self, x: Tensor, prefix: str, turns: tuple[Tensor, Tensor]) -> Tensor:
        shape = self.shape
        q = self._heads(x, f"{prefix}.q_proj", shape.heads)
        k, v = (self._heads(x, f"{prefix}.{name}_proj", shape.kv_heads) for name in "kv")
        group = shape.heads // shape.kv_heads
        mixed = F.scaled_dot_product_attention(
            _rotate(q, turns),
            _rotate(k, turns).repeat_interleave(group, dim=1),
            v.repeat_interleave(group, dim=1),
            is_causal=True,
        )
        return self._linear(mixed.transpose(1, 2).flatten(2), f"{prefix}.o_proj")

    def _heads(self, x: Tensor, name: str, heads: int) -> Tensor:
        return self._linear(x, name).unflatten(-1, (heads, self.shape.head_dim)).transpose(1, 2)

    def _mlp(self, x: Tensor, prefix: str) -> Tensor:
        gate, up = (self._linear(x, f"{prefix}.{name}_proj") for name in ("gate", "up"))
        return self._linear(F.silu(gate) * up, f"{prefix}.down_proj")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"].to(self.dtype))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        return F.rms_norm(x, (self.shape.hidden,), weight, self.shape.eps).to(self.dtype)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.dropout else x

    def _turns(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosine and sine [length, head_dim / 2] of every position."""
        half = torch.arange(0, self.shape.head_dim, 2, device=device, dtype=torch.float32)
        speeds = self.shape.rope_theta ** (-half / self.shape.head_dim)
        angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * speeds
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)


def _rotate(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (i, i + head_dim / 2)."""
    cos, sin = turns
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
