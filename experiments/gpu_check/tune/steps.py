"""Decode steps of few rows whose products norm, add and activate on the way: right, the same early
and late and in every replay, and how long beside those that run now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import product
from unittest.mock import patch

import torch
from torch import Tensor

from executor.bench.session import TINY_POINTS
from executor.bench.steps import DecodePoint
from executor.calibration.cases import RandomArena, decode_step
from executor.calibration.timing import Deadline, captured
from executor.models import Model, load_model
from executor.steps.items import ItemBudget
from executor.steps.step import StepInputs
from experiments.gpu_check.checks import Context, Result
from experiments.gpu_check.floors import session
from experiments.gpu_check.graphs import late
from experiments.gpu_check.kernels import reference
from experiments.gpu_check.kernels.cases import MIXES
from experiments.gpu_check.rows import Row, outcome
from experiments.gpu_check.setting import (
    device_of,
    dtype_of,
    ops_of,
    poison,
    randn,
    tolerance,
    verdict,
)
from experiments.gpu_check.small import config_file, tiny_config

ROWS = (1, 16, 32)
CONTEXT = 1024
LAYERS_OF_8B = {
    "num_hidden_layers": 2,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 14336,
}
"""So that what is compiled for them is what a whole step needs."""
REPLAYS = 20
EPS = 1e-5


def fused(context: Context) -> Result:
    """Products against float64, logits of two layers against those of now, then whole steps of
    Llama-3.1-8B both ways.
    """
    from executor.kernels.tiles import capability

    if capability(device_of(context)) < 90:
        return {"skipped": "there are no such products for this architecture"}
    with fusing(context):
        found = verdict(products(context), tolerance(context))
    if found["ok"]:
        unlike, differ = logits(context)
        found = verdict(unlike, tolerance(context, 3e-2)) | {"replays_that_differ": differ}
        if differ:
            found |= {"ok": False, "error": f"{differ} replays differ"}
    if not found["ok"]:
        return found
    rows = [] if context.rehearsal else steps(context)
    context.cache.setdefault("steps", []).extend(rows)
    return outcome(rows, worst=found["worst"])


@contextmanager
def fusing(context: Context) -> Iterator[None]:
    """Steps of few rows by fused products, for a while."""
    from executor.kernels import linear_fused

    fused = linear_fused.FUSED
    with (
        patch.dict(fused, dict.fromkeys(fused, True)),
        patch.object(linear_fused, "TYPES", (dtype_of(context),)),
    ):
        yield


def asked(context: Context) -> Result:
    """Decode attention that asks for its first blocks before it waits: the same bits in every
    replay as without, late, over all precisions; then whole steps both ways.
    """
    from executor.kernels.tiles import capability

    if capability(device_of(context)) < 90:
        return {"skipped": "nothing is launched early on this architecture"}
    model, differ = layers_of_8b(context), 0
    for rows, shares in product(ROWS[:1] if context.tiny else ROWS, MIXES.values()):
        source, step = decodes(model, rows, shares)
        with late():
            wanted = model.forward(step, source.arena)
        with asking():
            found = model.forward(step, source.arena)
            differ += not torch.equal(found, wanted)
            if not context.tiny:
                differ += replays_that_differ(model, step, source.arena, wanted)
    if differ:
        return {"ok": False, "error": f"{differ} steps differ"}
    rows_now = [] if context.rehearsal else measured_steps(context, "now", ROWS)
    with asking():
        rows_asked = [] if context.rehearsal else measured_steps(context, "asked", ROWS)
    context.cache.setdefault("steps", []).extend(rows_asked)
    return outcome(rows_now + rows_asked)


def asking() -> AbstractContextManager[object]:
    """Decode attention that is launched early asks for its first blocks, for a while."""
    from executor.kernels.decode_attention import ASKED

    return patch.dict(ASKED, dict.fromkeys(ASKED, True))


def products(context: Context) -> dict[str, float]:
    """Relative errors of each form, twice, over memory full of NaN."""
    ops, errors = ops_of(context), dict[str, float]()
    hidden, inner = (128, 96) if context.tiny else (4096, 14336)
    for m in ROWS[:1] if context.tiny else ROWS:
        for k in (hidden, inner):
            x, weight = randn(context, m, k), randn(context, hidden, k, scale=k**-0.5)
            residual, gain = randn(context, m, hidden), randn(context, hidden)
            poison(context)
            total, scaled, squares = ops.linear_add(x, weight, residual, gain)
            errors |= {
                f"add {m}x{k}": _error(total, residual.double() + x.double() @ weight.double().T),
                f"scaled {m}x{k}": _error(scaled, total.double() * gain.double()),
                f"squares {m}x{k}": _error(squares.sum(0), total.double().square().sum(-1)),
            }
        weight = randn(context, 2 * inner, hidden, scale=hidden**-0.5)
        normed = total.double() * (total.double().square().mean(-1, keepdim=True) + EPS).rsqrt()
        wanted = (normed * gain.double()) @ weight.double().T
        poison(context)
        errors[f"normed {m}"] = _error(ops.linear_normed(scaled, squares, EPS, weight), wanted)
        gate, up = wanted.chunk(2, dim=-1)
        wanted = torch.nn.functional.silu(gate) * up
        errors[f"gated {m}"] = _error(ops.linear_gated(scaled, squares, EPS, weight), wanted)
    return errors


def _error(found: Tensor, wanted: Tensor) -> float:
    return reference.relative_error(found, wanted)


def logits(context: Context) -> tuple[dict[str, float], int]:
    """How far fused logits are from those of now, by rows, and how many replays of a graph differ
    from fused steps that are run eagerly and late.
    """
    model, unlike, differ = layers_of_8b(context), dict[str, float](), 0
    for rows in ROWS[:1] if context.tiny else ROWS:
        source, step = decodes(model, rows)
        plain = model.forward(step, source.arena)
        with fusing(context):
            with late():
                wanted = model.forward(step, source.arena)
            unlike[f"{rows} rows"] = reference.relative_error(wanted, plain)
            if not context.tiny:
                differ += replays_that_differ(model, step, source.arena, wanted)
    return unlike, differ


def layers_of_8b(context: Context) -> Model:
    """Two layers of Llama-3.1-8B with a small vocabulary."""
    tiny = context.tiny
    path = tiny_config(context) if tiny else config_file(context, "layers-8b", LAYERS_OF_8B)
    place = {"device": device_of(context), "dtype": dtype_of(context), "ops": ops_of(context)}
    return load_model(path, random_weights=True, **place)


def decodes(
    model: Model, rows: int, shares: dict[int, float] | None = None
) -> tuple[RandomArena, StepInputs]:
    """A step of so many sequences, of unequal lengths, and where their keys are; `shares` of the
    blocks have fewer bits.
    """
    lengths = [1 + (97 * place * place + 31) % 1500 for place in range(rows)]
    blocks = sum(-(-length // model.layout.block_tokens) for length in lengths)
    counts = {16: blocks + rows, **dict.fromkeys(shares or (), blocks)}
    source = RandomArena(model.layout, counts, model.device)
    budget = ItemBudget.of(model.layout, model.device)
    return source, decode_step(source, lengths, model.vocab, budget, shares)


def replays_that_differ(model: Model, step: StepInputs, arena: Tensor, wanted: Tensor) -> int:
    """Of REPLAYS of one graph."""
    found = torch.zeros_like(wanted)
    run, count = captured([lambda: found.copy_(model.forward(step, arena))]), 0
    for _ in range(REPLAYS):
        found.zero_()
        run()
        count += not torch.equal(found, wanted)
    return count


def steps(context: Context) -> list[Row]:
    """Whole decode steps from graphs, as they run now and fused."""
    rows = measured_steps(context, "now", ROWS)
    with fusing(context):
        return rows + measured_steps(context, "fused", ROWS)


def measured_steps(context: Context, products: str, counts: Sequence[int]) -> list[Row]:
    """Steps of the 8B of so many sequences, named by what `products` they have."""
    points = tuple(DecodePoint(count, CONTEXT) for count in counts)
    points = TINY_POINTS[:1] if context.tiny else points
    found = session(context, "llama-3.1-8b").decodes(points, Deadline(context.left_s))
    return [
        {
            **{"B": point.batch, "ctx": point.context, "products": products},
            **{"us": row["seconds"] * 1e6, "share of floor": row["share_of_floor"]},
        }
        for point, row in zip(points, found, strict=False)  # fewer where time is over
    ]
