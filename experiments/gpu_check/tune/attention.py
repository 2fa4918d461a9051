"""Variants of attention, of decodes and of chunks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

from torch import Tensor

from executor.bench.attention import Heads, decode_bytes, time_decode, time_prefill
from executor.calibration.cases import RandomArena
from executor.kernels.decode_attention import COPIED
from executor.kernels.prefill_attention import AHEAD
from executor.steps.inputs import DecodeRow, build_inputs
from executor.steps.items import ItemBudget
from experiments.gpu_check.checks import Context, Result
from experiments.gpu_check.kernels import reference
from experiments.gpu_check.kernels.attention import prefill_case_error, worst_row
from experiments.gpu_check.rows import Row, ceiling, guarded, outcome, told, wrong
from experiments.gpu_check.setting import device_of, heads_of, ops_of, randn
from experiments.gpu_check.speed.attention import prefill
from experiments.gpu_check.variants import arena_of, budget_of, label, tiles

PREFILL: tuple[tuple[int, dict[str, int]], ...] = (
    (128, {}),
    (128, AHEAD),
    (128, {"keys": 64, **AHEAD}),
    (128, {"keys": 64, "lag": 1}),
    (128, {"keys": 64, "lag": 1, **AHEAD}),
    (64, {}),
    (64, AHEAD),
    (64, {"lag": 1}),
)
"""Rows of a tile of long chunks, and change of the table."""
DECODE: tuple[dict[str, int], ...] = ({}, COPIED, {**COPIED, "nibble_stages": 3})
"""Changes of the tile table."""
DECODES: tuple[tuple[int, int], ...] = ((32, 1024), (32, 8192), (128, 1024), (128, 8192))
"""Sequences and context."""
CUTS = {"now": False, "waves": True}
"""Whether the items of many rows fill whole waves."""
BUDGETS: tuple[tuple[int, int], ...] = ((4, 64), (8, 64), (8, 32), (12, 64), (24, 64))
"""Programs per multiprocessor and tokens of the shortest item."""


def decode(context: Context, change: dict[str, int]) -> Result:
    """One variant: right, and its time by precision, batch and how rows are cut."""
    with tiles("decode_attention", change):
        error = decode_error(context)
        if found := wrong(context, error):
            return found
        rows = context.kept(decode_rows(context, change))
    return told(context, "decode", rows, error)


def decode_rows(context: Context, change: dict[str, int]) -> Iterator[Row]:
    """Times of all cases of the variant that the tables have now."""
    for bits, (batch, length), cut in cases(context):
        row = {"tile": label(change), "B": batch, "ctx": length, "cut": cut}
        budget = ItemBudget.of(heads_of(context).layout, device_of(context), CUTS[cut])
        measure = partial(decode_row, context, bits, batch, length, budget)
        yield guarded({"kv": bits, **row}, measure)


def cases(context: Context) -> Iterator[tuple[int, tuple[int, int], str]]:
    """Bits, sequences and context, and a cut; compiling takes one of each precision."""
    few = context.tiny or context.rehearsal
    for bits in (16, 8, 4):
        yield from product((bits,), DECODES[:1] if few else DECODES, list(CUTS)[: 1 if few else 2])


def decode_row(context: Context, bits: int, batch: int, length: int, budget: ItemBudget) -> Row:
    """Time of one layer and share of the bandwidth."""
    heads = heads_of(context)
    if context.tiny:
        batch, length = 2, 257
    key = f"arena {bits}"
    if key not in context.cache:
        for old in [name for name in context.cache if name.startswith("arena ")]:
            del context.cache[old]
        context.cache[key] = arena_of(context, heads, bits, 64 if context.tiny else 131072 // bits)
    contexts = [length] * batch
    timing = time_decode(ops_of(context), heads, context.cache[key], contexts, bits, budget, 0.04)
    rate = decode_bytes(heads, contexts, bits) / timing.seconds
    return {"us": timing.seconds * 1e6, "GB/s": rate / 1e9, "share": rate / ceiling(context)}


def decode_error(context: Context) -> float:
    """The worst relative error of a row, over precisions and mixes."""
    if "cases" not in context.cache:
        mixes: tuple[dict[int, float], ...] = ({}, {8: 1.0}, {4: 1.0}, {4: 0.4, 8: 0.4})
        context.cache["cases"] = [decode_case(context, shares) for shares in mixes]
    worst = 0.0
    for arguments, wanted in context.cache["cases"]:
        found = ops_of(context).decode_attention(*arguments)
        worst = max(worst, worst_row(found[:-2], wanted[:-2]))
        if not bool((found[-2:] == 0).all()):
            return float("inf")
    return worst


def decode_case(context: Context, shares: dict[int, float]) -> tuple[Any, Tensor]:
    """Arguments of decode attention, the last two rows padding, and what it has to give."""
    heads, device = heads_of(context, layers=2), device_of(context)
    layout, tokens = heads.layout, heads.layout.block_tokens
    source = RandomArena(layout, 100, device)
    lengths = (1, tokens, 5 * tokens + 7, 45 * tokens + 1)
    rows = [DecodeRow(source.table(n, shares), n, 1) for n in lengths]
    step = build_inputs(rows, [], layout, device, item_blocks=8, pad_rows=6, pad_items=32)
    q = randn(context, 6, heads.count, layout.head_dim)
    arguments: Any = (q, source.arena, layout, 1, step.decode, layout.head_dim**-0.5)
    return arguments, reference.decode_attention(*arguments)


def decode_shapes(context: Context) -> Result:
    """Other batches and lengths, by number of items, with the tiles of the table."""
    rows = []
    points = ((1, 1024), (1, 32768), (32, 1024), (128, 1024))
    for bits in (16, 8, 4):
        for batch, length in points[:1] if context.tiny else points:
            for programs, shortest in BUDGETS[:1] if context.tiny else BUDGETS:
                row = {"kv": bits, "B": batch, "ctx": length}
                row |= {"programs": programs, "least": shortest}
                budget = budget_of(context, heads_of(context), programs, shortest)
                measure = partial(decode_row, context, bits, batch, length, budget)
                rows.append(guarded(row, measure))
    context.cache.setdefault("shapes", []).extend(rows)
    return outcome(rows)


def prefill_tiles(context: Context, rows: int, change: dict[str, int]) -> Result:
    """A variant of prefill attention."""
    from executor.kernels import prefill_attention as kernel
    from executor.kernels.tiles import capability

    key = capability(device_of(context))
    few = {n: table for n, table in kernel.TILES[key].items() if n <= rows}
    with patch.dict(kernel.TILES, {key: few}):
        with tiles("prefill_attention", change):
            error = prefill_error(context)
        found = prefill(context, change)
    for row in found["rows"]:
        row["tile"] = prefill_name(rows, change)
    return told(context, "prefill", found["rows"], error)


def prefill_context(context: Context) -> Result:
    """A chunk after a context of each precision, with the tiles of the table."""
    heads, rows = heads_of(context, layers=4), []
    chunk = (9, 96) if context.tiny else (512, 8192)
    for bits in (16, 8, 4):
        source = arena_of(context, heads, bits, 600)
        row = {"kv": bits, "chunk": chunk[0], "context": chunk[1]}
        measure = partial(prefill_row, context, heads, source, chunk, bits)
        rows.append(guarded(row, measure))
    return outcome(rows)


def prefill_row(
    context: Context, heads: Heads, source: RandomArena, chunk: tuple[int, int], bits: int
) -> Row:
    """Time of one layer."""
    timing = time_prefill(ops_of(context), heads, source, chunk, 0.06, bits)
    return {"us": timing.seconds * 1e6}


def prefill_name(rows: int, change: dict[str, int]) -> str:
    """A variant in words."""
    return f"rows={rows} {label(change)}"


def prefill_error(context: Context) -> float:
    """The worst relative error of a chunk, over precisions and mixes."""
    return max(prefill_case_error(context, "llama-8b", shares) for shares in ({}, {4: 0.3, 8: 0.4}))
