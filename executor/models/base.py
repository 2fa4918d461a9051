"""What the executor asks of a model, whatever its architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from executor.kernels.ops import Ops
from executor.kv.layout import KVLayout
from executor.steps.step import DecodeItems, PrefillChunks, StepInputs
from superinfer.errors import InputError


class Model(Protocol):
    """A decoder whose keys and values lie in blocks of an arena."""

    layout: KVLayout
    """Of this rank's KV heads."""
    vocab: int
    max_model_len: int
    device: torch.device

    def forward(self, step: StepInputs, arena: Tensor) -> Tensor:
        """One step: writes keys and values into the arena; logits [wanted, vocab] of its type.

        `arena` is a byte tensor. Nothing waits for the device, and no launch depends on anything
        but the shapes of the step's tensors and `PrefillChunks.longest`, so that a step can be
        captured in a graph.
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
    """Attention over blocks as one model runs it, and the keys and values that it needs there."""

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
        whole_step = keys.prefill is not None and keys.prefill.whole_step
        if keys.decode is not None and keys.decodes:
            rows = q[: keys.decodes]
            parts.append(self.ops.decode_attention(rows, *place, keys.decode, self.scale, bias))
        if keys.prefill is not None:
            rows = q if whole_step else q[keys.decodes :]
            parts.append(
                self.ops.prefill_attention(rows, *place, keys.prefill, self.scale, bias, causal)
            )
        if whole_step:
            return _overlaid(parts).flatten(1)
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        return joined.flatten(1)

    def write(
        self,
        heads: tuple[Tensor, Tensor, Tensor],
        step: StepInputs,
        arena: Tensor,
        layer: int,
        cos: Tensor | None = None,
        sin: Tensor | None = None,
    ) -> None:
        """Put the keys and values of a step's rows into their blocks, before anything attends.

        `heads`: queries, keys and values as `Ops.rope_write` takes them; where there are `cos` and
        `sin`, queries and keys are rotated, the queries in place.
        """
        q, k, v = heads
        where = step.write_offsets, step.write_slots
        self.ops.rope_write(q, k, v, cos, sin, step.positions, arena, self.layout, layer, *where)


def _overlaid(parts: list[Tensor]) -> Tensor:
    """Attention of chunks with that of decodes in the first rows; each is zero where the other is
    not, so that where decodes end is not a matter of shapes.
    """
    *decodes, everything = parts
    for part in decodes:
        everything[: len(part)].add_(part)
    return everything


def check_length(
    most_tokens: int, prompt_tokens: int, output_tokens: int = 0, of: str = "the context"
) -> None:
    """Raise InputError for a request that is longer than a model's context, or what else it is
    `of` that holds no more.
    """
    tokens = prompt_tokens + output_tokens
    if tokens > most_tokens:
        raise InputError(
            f"the request has {prompt_tokens} prompt tokens and asks for {output_tokens} more: "
            f"{tokens} are above {of} of {most_tokens}"
        )
