"""What the executor asks of a model, whatever its architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from executor.kernels.ops import Ops
from executor.kv.layout import KVLayout
from executor.step import StepInputs
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


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention over blocks as one model runs it."""

    ops: Ops
    layout: KVLayout
    scale: float

    def __call__(
        self,
        q: Tensor,
        step: StepInputs,
        arena: Tensor,
        layer: int,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Decodes first, then chunks, like the rows of `q` [rows, heads, D]; [rows, heads * D]."""
        parts = []
        if step.decode is not None and step.decodes:
            rows = q[: step.decodes]
            parts.append(
                self.ops.decode_attention(
                    rows, arena, self.layout, layer, step.decode, self.scale, bias
                )
            )
        if step.prefill is not None:
            rows = q[step.decodes :]
            parts.append(
                self.ops.prefill_attention(
                    rows, arena, self.layout, layer, step.prefill, self.scale, bias
                )
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
