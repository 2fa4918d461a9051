"""128 sequences of 8k tokens on Llama-3.1-8B: more keys and values than 16 bits have room for.

Tokens per second of decode steps with 8 bits, with 8 and 4 in halves, and with 4; where a form does
not fit, the row says so. What the bits cost in quality is measured on the trained model that ships
with the project, with the same kernels: the large one has random weights here, which say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from executor.bench.floors import decode_floor_s
from executor.bench.session import DOES_NOT_FIT, Session
from executor.bench.steps import arena_room, greedy, kv_bytes
from executor.calibration.cases import RandomArena, decode_step
from executor.calibration.timing import time_calls
from executor.device import asked_bytes
from executor.kv.layout import KVLayout
from executor.steps.items import ItemBudget
from experiments.gpu_check.checks import Check, Context, Result
from experiments.gpu_check.floors import rows_of, session

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of the blocks by precision; the newest block has 16 bits in any case."""

    name: str
    """That of the form in `executor.quality.evaluation` whose figures go with it."""
    shares: dict[int, float]

    def token_bytes(self, layout: KVLayout) -> float:
        """Per token over all layers, as shares have it."""
        return sum(share * kv_bytes(layout, bits) for bits, share in self.shares.items())


MIXES = (
    Mix("16 bits", {16: 1.0}),
    Mix("8 bits", {8: 1.0}),
    Mix("half 8, half 4 bits", {8: 0.5, 4: 0.5}),
    Mix("4 bits", {4: 1.0}),
)


def tokens(context: Context) -> Result:
    """A decode step of each mix."""
    batch, length = (3, 257) if context.tiny else (128, 8192)
    found = session(context, "llama-3.1-8b")
    return rows_of(context.kept(_row_that_fits(found, mix, batch, length) for mix in MIXES))


def _row_that_fits(found: Session, mix: Mix, batch: int, length: int) -> Row:
    """Of a mix; one for which there is too little memory after all takes no other along."""
    row: Row = {"kv": mix.name, "B": batch, "ctx": length}
    try:
        return _row(found, mix, row)
    except torch.OutOfMemoryError as error:
        return row | {"skipped": f"{DOES_NOT_FIT}: no {asked_bytes(error)} left"}


def _row(found: Session, mix: Mix, row: Row) -> Row:
    model, layout = found.model, found.model.layout
    batch, length = row["B"], row["ctx"]
    each = -(-length // layout.block_tokens)
    blocks = {bits: round(batch * (each * share + 1)) for bits, share in mix.shares.items()}
    blocks[16] = blocks.get(16, 0) + batch + 1
    need = sum(count * layout.block_bytes[bits] for bits, count in blocks.items())
    row["kv_gb"] = need / 1e9
    if need > arena_room(model.device):
        return row | {"skipped": DOES_NOT_FIT}
    source = RandomArena(layout, blocks, model.device)
    shares = {bits: share for bits, share in mix.shares.items() if bits != 16}
    budget = ItemBudget.of(layout, model.device)
    step = decode_step(source, [length] * batch, model.vocab, budget, shares)
    timing = time_calls([greedy(model, step, source.arena)], model.device, 0.5)
    size = mix.token_bytes(layout)
    floor_s = decode_floor_s(found.shape, batch, length, size, found.ceilings)
    return row | {
        "seconds": timing.seconds,
        "tokens_per_s": batch / timing.seconds,
        "share_of_floor": floor_s / timing.seconds,
        "spread": timing.spread,
    }


def quality(context: Context) -> Result:
    """KL divergence and change of perplexity of each mix, on the shipped model with these kernels;
    with outlier channels, too, as large models have them.
    """
    from executor.quality.measure import Settings, measure

    windows, length, distance = (2, 128, 128) if context.tiny else (16, 512, 1024)
    settings = Settings(device=context.device, windows=windows, length=length, distance=distance)
    report = measure(settings)
    rows = [
        {"kv": mix.name, "model": kind, **report[kind]["forms"][mix.name]}
        for kind in ("plain", "outliers")
        for mix in MIXES
        if mix.name in report[kind]["forms"]
    ]
    return rows_of(rows, report=report)


CHECKS: dict[str, Check] = {"tokens": tokens, "quality": quality}
