"""Whole steps of a model on random contents: decodes in a graph, prefills as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from executor.bench.floors import Ceilings, decode_floor_s, prefill_floor_s
from executor.calibration.cases import RandomArena, decode_step, mixed_step
from executor.calibration.timing import time_calls
from executor.capacity import HOST_CACHE_BYTES
from executor.device import free_bytes
from executor.kernels.ops import ops_for
from executor.kv.layout import PRECISIONS, KVLayout
from executor.models.base import Model
from executor.steps.items import ItemBudget
from executor.steps.step import StepInputs
from superinfer.costs.shapes import ModelShape

SPARE_BYTES = 3 << 30
"""Left free for activations and graphs."""
DECODE_S, PREFILL_S = 0.3, 0.5
"""Of measuring, for each point."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One point: seconds beside the floor."""

    point: str
    seconds: float
    floor_s: float
    spread: float
    tokens_per_s: float

    @property
    def share(self) -> float:
        """Of the floor that was reached."""
        return self.floor_s / self.seconds

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "share_of_floor": self.share}


@dataclass(frozen=True, slots=True)
class DecodePoint:
    """A decode step: sequences of one length, all blocks but the newest of `bits`."""

    batch: int
    context: int
    bits: int = 16

    @property
    def name(self) -> str:
        """As tables show it."""
        return f"decode B={self.batch} ctx={self.context} kv={self.bits}"

    def blocks(self, layout: KVLayout) -> int:
        """Blocks of `bits` that it wants, so that none is read twice."""
        return self.batch * -(-self.context // layout.block_tokens)


def decode_points(
    contexts: Iterable[int], batches: Sequence[int], bits: Sequence[int] = PRECISIONS
) -> tuple[DecodePoint, ...]:
    """Every context with every batch in every precision, in this order."""
    return tuple(
        DecodePoint(batch, context, precision)
        for context in contexts
        for batch in batches
        for precision in bits
    )


def arena_room(device: torch.device) -> int:
    """Bytes that an arena may take."""
    if device.type != "cuda":
        return HOST_CACHE_BYTES
    return max(0, free_bytes(device) - SPARE_BYTES)


def kv_bytes(layout: KVLayout, bits: int) -> float:
    """Bytes per token over all layers, scales included."""
    return layout.block_bytes[bits] / layout.block_tokens


def measure_decode(
    model: Model,
    shape: ModelShape,
    point: DecodePoint,
    source: RandomArena,
    ceilings: Ceilings,
    weight_bytes: float = 2.0,
) -> Measured:
    """Seconds of the point's step, captured and replayed."""
    shares = {} if point.bits == 16 else {point.bits: 1.0}
    contexts = [point.context] * point.batch
    step = decode_step(
        source, contexts, model.vocab, ItemBudget.of(model.layout, model.device), shares
    )
    call = greedy(model, step, source.arena)
    timing = time_calls([call], model.device, DECODE_S)
    size = kv_bytes(model.layout, point.bits)
    floor_s = decode_floor_s(shape, point.batch, point.context, size, ceilings, weight_bytes)
    return Measured(
        point.name, timing.seconds, floor_s, timing.spread, point.batch / timing.seconds
    )


def measure_prefill(
    model: Model, shape: ModelShape, tokens: int, source: RandomArena, ceilings: Ceilings
) -> Measured:
    """Seconds of one prompt in one step, run eagerly as the runner runs long ones."""
    step = mixed_step(
        source, [], [(tokens, 0)], model.vocab, ItemBudget.of(model.layout, model.device)
    )
    call = greedy(model, step, source.arena)
    timing = time_calls([call], model.device, PREFILL_S, graph=False)
    floor_s = prefill_floor_s(shape, tokens, ceilings)
    name = f"prefill {tokens}"
    return Measured(name, timing.seconds, floor_s, timing.spread, tokens / timing.seconds)


def greedy(model: Model, step: StepInputs, arena: Tensor) -> Callable[[], Tensor]:
    """The step with its greedy tokens, as a runner takes them."""
    ops = ops_for(model.device)
    kept = torch.zeros(len(step.logit_rows), dtype=torch.int64, device=model.device)
    return lambda: ops.largest(model.forward(step, arena), kept)
