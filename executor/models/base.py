"""What the executor asks of a model, whatever its architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from executor.kernels.ops import Ops
from executor.kv.layout import KVLayout
from executor.step import DecodeItems, PrefillChunks, StepInputs
from superinfer.errors import InputError


class Model(Protocol):
    """A decoder whose keys and values lie in blocks of an arena."""

    layout: KVLayout
    """Of this rank's KV heads."""
    vocab: int
    max_model_len: int
    device: torch.device

    def forward(self, step: StepInputs, arena: Tensor) -> Tensor:
        """One step: writes keys and values into the arena; float32 logits [wanted, vocab].

        `arena` is a byte tensor. Nothing waits for the device, and for steps that decode alone no
        launch depends on lengths, so such a step can be captured in a graph.
        """
        ...


class Keys(Protocol):
    """Whose blocks the rows of a step attend to: those of `StepInputs`, or of another sequence."""

    @property
    def decodes(self) -> int:
        """Rows that decode; they come first."""

    @property
    def decode(self) -> DecodeItems | None:
        """Blocks of those rows."""

    @property
    def prefill(self) -> PrefillChunks | None:
        """Blocks of the rows behind them."""


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention over blocks as one model runs it."""

    ops: Ops
    layout: KVLayout
    scale: float

    def __call__(
        self,
        q: Tensor,
        keys: Keys,
        arena: Tensor,
        layer: int,
        bias: Tensor | None = None,
        causal: bool = True,
    ) -> Tensor:
        """Decodes first, then chunks, like the rows of `q` [rows, heads, D]; [rows, heads * D].

        `bias` is that of `Ops.decode_attention`; chunks that are not `causal` see all keys.
        """
        parts, place = [], (arena, self.layout, layer)
        if keys.decode is not None and keys.decodes:
            rows = q[: keys.decodes]
            parts.append(self.ops.decode_attention(rows, *place, keys.decode, self.scale, bias))
        if keys.prefill is not None:
            rows = q[keys.decodes :]
            parts.append(
                self.ops.prefill_attention(rows, *place, keys.prefill, self.scale, bias, causal)
            )
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        return joined.flatten(1)


def check_length(model: Model, prompt_tokens: int, output_tokens: int = 0) -> None:
    """Raise InputError for a request that is longer than the model's context."""
    tokens = prompt_tokens + output_tokens
    if tokens > model.max_model_len:
        raise InputError(
            f"the request has {prompt_tokens} prompt tokens and asks for {output_tokens} more: "
            f"{tokens} are above the context of {model.max_model_len}"
        )
