"""Decode steps' own kernels in a row, launched after each other's end and before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from executor.calibration.cases import RandomArena, decode_step
from executor.calibration.timing import Call, captured, time_calls
from executor.items import ItemBudget
from executor.kernels.tiles import capability
from executor.step import StepInputs
from experiments.gpu_check.checks import Context, Result
from experiments.gpu_check.kernels import tables
from experiments.gpu_check.rows import Row, guarded, outcome
from experiments.gpu_check.setting import device_of, heads_of, ops_of, poison, randn
from experiments.gpu_check.speed import arena_of

POINTS: tuple[tuple[int, int], ...] = ((1, 1024), (32, 1024), (32, 8192))
"""Sequences and tokens of each."""
REPLAYS = 20
"""Of a graph whose outputs are compared: what comes too early comes too early now and then."""


@contextmanager
def launched(early: bool, device: torch.device) -> Iterator[None]:
    """With the switch of `executor.kernels.early` set, for a while."""
    from executor.kernels.early import EARLY

    chip = capability(device)
    kept = EARLY[chip]
    try:
        EARLY[chip] = early
        yield
    finally:
        EARLY[chip] = kept


def early(context: Context) -> Result:
    """Rotation, attention and merge of all layers: the same bits either way, and the time."""
    heads, rows = heads_of(context), list[Row]()
    source = arena_of(context, heads, 16, 8192)
    differ = []
    for batch, length in ((2, 40),) if context.tiny else POINTS:
        budget = ItemBudget.of(heads.layout, source.device)
        step = decode_step(source, [length] * batch, 100, budget)
        wide = heads.count + 2 * heads.layout.kv_heads
        fused = randn(context, batch, wide, heads.layout.head_dim)
        outputs = [_outputs(context, source, step, fused, switch) for switch in (False, True)]
        if not all(torch.equal(outputs[0][0], found) for found in outputs[0] + outputs[1]):
            differ.append(f"{batch} x {length}")
        for switch in (False, True):
            row = {"B": batch, "ctx": length, "early": int(switch)}
            rows.append(guarded(row, partial(_row, context, source, step, fused, switch)))
    found = outcome(rows)
    if differ:
        found |= {"ok": False, "error": f"launched early, outputs differ at {', '.join(differ)}"}
    return found


def _calls(
    context: Context, source: RandomArena, step: StepInputs, fused: Tensor, out: Tensor | None
) -> list[Call]:
    """Rotation and attention of each layer; `out` [layers, rows, heads, D] gets what they give.

    Values are rotated in place, so each call begins with the same ones.
    """
    heads, ops = heads_of(context), ops_of(context)
    layout, scale = heads.layout, heads.layout.head_dim**-0.5
    cos, sin = tables(context, layout.head_dim, 16384)
    parts = [heads.count, layout.kv_heads, layout.kv_heads]

    def layer(index: int) -> None:
        turned = fused.clone() if out is not None else fused
        q, k, v = turned.split(parts, dim=1)
        where = step.positions, source.arena, layout, index, step.write_offsets, step.write_slots
        ops.rope_write(q, k, v, cos, sin, *where)
        assert step.decode is not None
        found = ops.decode_attention(q, source.arena, layout, index, step.decode, scale)
        if out is not None:
            out[index] = found

    return [partial(layer, index) for index in range(layout.layers)]


def _outputs(
    context: Context, source: RandomArena, step: StepInputs, fused: Tensor, switch: bool
) -> list[Tensor]:
    """What all layers give, from several replays over memory full of NaN."""
    heads = heads_of(context)
    out = fused.new_empty((heads.layout.layers, len(fused), heads.count, fused.shape[-1]))
    found = []
    with launched(switch, device_of(context)):
        calls = _calls(context, source, step, fused, out)
        poison(context)
        run = _all(calls) if device_of(context).type == "cpu" else captured(calls)
        for _ in range(1 if context.tiny else REPLAYS):
            out.fill_(torch.nan)
            run()
            found.append(out.clone())
    return found


def _all(calls: list[Call]) -> Call:
    def run() -> None:
        for call in calls:
            call()

    return run


def _row(
    context: Context, source: RandomArena, step: StepInputs, fused: Tensor, switch: bool
) -> Row:
    """Time of a layer's rotation and attention."""
    with launched(switch, device_of(context)):
        calls = _calls(context, source, step, fused.clone(), None)
        timing = time_calls(calls, device_of(context), 0.02 if context.tiny else 0.06)
    return {"us": timing.seconds * 1e6}
