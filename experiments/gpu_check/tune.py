"""Variants of kernels side by side, each checked before it is timed; a sorted table ends it.

What wins here becomes the entry of a tile table.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from executor.bench.attention import decode_bytes, time_decode
from executor.calibration.cases import RandomArena
from executor.calibration.timing import Call, copies_beyond_cache, time_calls
from executor.inputs import DecodeRow, build_inputs
from executor.items import ItemBudget
from experiments.gpu_check import reference
from experiments.gpu_check.checks import Check, Context, Result
from experiments.gpu_check.kernels import prefill_case_error, worst_row
from experiments.gpu_check.rows import Row, ceiling, guarded, outcome
from experiments.gpu_check.setting import device_of, heads_of, ops_of, randn, tolerance
from experiments.gpu_check.speed import arena_of, label, prefill, tiles

INT8: dict[int, tuple[tuple[int, int, int, int, int], ...]] = {
    16: (
        (16, 32, 256, 2, 4),
        (16, 32, 128, 1, 4),
        (16, 64, 128, 2, 4),
        (16, 32, 256, 4, 4),
    ),
    32: (
        (32, 64, 128, 2, 3),
        (32, 64, 64, 2, 6),
        (32, 128, 64, 2, 4),
        (32, 128, 64, 4, 5),
    ),
    64: (
        (64, 64, 128, 4, 4),
        (64, 128, 64, 2, 4),
        (64, 128, 64, 4, 4),
        (64, 128, 128, 8, 3),
    ),
    256: (
        (128, 128, 64, 8, 4),
        (128, 256, 64, 8, 3),
        (256, 128, 64, 8, 3),
    ),
}
"""By rows of activations: rows, outputs, depth, warps and stages of tiles."""
SHARES: tuple[int, ...] = (0, 4, 8)
"""Programs per multiprocessor up to which tiles are cut into slices."""
WIDE: tuple[tuple[int, int, int, int, int], ...] = (
    (16, 32, 128, 2, 4),
    (16, 32, 128, 2, 6),
    (16, 32, 256, 2, 3),
    (16, 32, 128, 4, 5),
    (16, 16, 256, 1, 4),
    (16, 32, 64, 1, 6),
)
"""Tiles of products with weights of 16 bits and few rows."""
PREFILL: tuple[tuple[int, dict[str, int]], ...] = (
    (128, {}),
    (128, {"keys": 64, "num_warps": 4, "num_stages": 2}),
    (128, {"keys": 128, "num_warps": 8, "num_stages": 2}),
    (64, {"keys": 64, "num_warps": 4, "num_stages": 2}),
    (64, {"keys": 64, "num_warps": 4, "num_stages": 3}),
    (64, {"keys": 128, "num_warps": 4, "num_stages": 2}),
)
"""Rows of a tile of long chunks, and change of the table."""
Attention = Callable[..., Tensor]
DECODE: tuple[tuple[str, dict[str, int]], ...] = (
    ("decode_warp", {}),
    ("decode_warp", {"registers": 168}),
    ("decode_warp", {"registers": 232}),
    ("decode_warp", {"registers": 128}),
    ("decode_warp", {"stages": 3}),
    ("decode_warp", {"byte_stages": 2, "nibble_stages": 2}),
    ("decode_warp", {"byte_stages": 4, "nibble_stages": 5}),
    ("decode_warp", {"tile": 16, "stages": 3, "byte_stages": 4, "nibble_stages": 4}),
    ("decode_attention", {}),
    ("decode_attention", {"tile": 64, "byte_tile": 64, "num_stages": 3}),
)
"""Module and change of its tile table."""
BUDGETS: tuple[tuple[int, int], ...] = ((4, 128), (8, 128), (12, 64), (24, 64))
"""Programs per multiprocessor and tokens of the shortest item."""


def ops_with(context: Context, module: str) -> Any:
    """The operations with decode attention of a module of `executor.kernels`."""
    from importlib import import_module

    if context.tiny:
        return ops_of(context)
    attention = import_module(f"executor.kernels.{module}").decode_attention
    return SimpleNamespace(decode_attention=attention)


def decode(context: Context, module: str, change: dict[str, int]) -> Result:
    """One variant: right, and its time at 32 rows of 8k per precision and number of items."""
    rows: list[Row] = []
    with tiles(module, change):
        error = decode_error(context, module)
        if not error <= tolerance(context):
            return {"ok": False, "error": f"wrong by {error:.3g}", "worst": error}
        budgets = BUDGETS[:1] if context.tiny else BUDGETS[:2]
        if module == "decode_warp" and not context.tiny:
            budgets = BUDGETS[1:4]
        for bits in (16, 8, 4):
            for programs, shortest in budgets:
                row = {"tile": f"{module} {label(change)}", "programs": programs, "least": shortest}
                measure = partial(decode_row, context, module, bits, 32, 8192, programs, shortest)
                rows.append(guarded({"kv": bits, **row}, measure))
    context.cache.setdefault("decode", []).extend(rows)
    return outcome(rows, worst=error)


def decode_row(
    context: Context,
    module: str,
    bits: int,
    batch: int,
    length: int,
    programs: int,
    shortest: int,
) -> Row:
    """Time of one layer and share of the bandwidth."""
    heads = heads_of(context)
    if context.tiny:
        batch, length = 2, 257
    key = f"arena {bits}"
    if key not in context.cache:
        for old in [name for name in context.cache if name.startswith("arena ")]:
            del context.cache[old]
        context.cache[key] = arena_of(context, heads, bits, 64 if context.tiny else 8192)
    contexts = [length] * batch
    processors = 8
    if not context.tiny:
        processors = torch.cuda.get_device_properties(0).multi_processor_count
    blocks = max(1, shortest // heads.layout.block_tokens)
    budget = ItemBudget(-(-processors * programs // heads.layout.kv_heads), blocks)
    timing = time_decode(
        ops_with(context, module), heads, context.cache[key], contexts, bits, budget, 0.04
    )
    rate = decode_bytes(heads, contexts, bits) / timing.seconds
    return {"us": timing.seconds * 1e6, "GB/s": rate / 1e9, "share": rate / ceiling(context)}


def decode_error(context: Context, module: str) -> float:
    """The worst relative error of a row, over precisions and mixes."""
    if "cases" not in context.cache:
        mixes: tuple[dict[int, float], ...] = ({}, {8: 1.0}, {4: 1.0}, {4: 0.4, 8: 0.4})
        context.cache["cases"] = [decode_case(context, shares) for shares in mixes]
    worst = 0.0
    for arguments, wanted in context.cache["cases"]:
        found = ops_with(context, module).decode_attention(*arguments)
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
            for module in ("decode_attention", "decode_warp"):
                for programs, shortest in BUDGETS[:1] if context.tiny else BUDGETS:
                    if module == "decode_attention" and programs > 8:
                        continue
                    row = {"kv": bits, "B": batch, "ctx": length, "kernel": module}
                    row |= {"programs": programs, "least": shortest}
                    measure = partial(
                        decode_row, context, module, bits, batch, length, programs, shortest
                    )
                    rows.append(guarded(row, measure))
    context.cache.setdefault("shapes", []).extend(rows)
    return outcome(rows)


def int8(context: Context, rows: int, shape: tuple[int, int, int, int, int]) -> Result:
    """One tile for products of so many rows: right, and its time by matrix and slices."""
    from executor.kernels import linear_int8 as kernel
    from executor.kernels.tiles import Tile, capability

    device, found = device_of(context), []
    worst = 0.0
    key, kept = capability(device), dict(kernel.TILES)
    programs = kernel.PROGRAMS_PER_PROCESSOR
    large = ((28672, 4096), (4096, 14336), (57344, 8192), (8192, 8192))
    try:
        kernel.TILES[key] = (Tile(*shape),)
        for n, k in ((256, 1024),) if context.tiny else large:
            weights = int8_weights(context, n, k)
            scales = torch.rand(n, device=device) * 0.01 + 0.001
            for m in (1, 16) if rows == 16 else (rows,):
                x = randn(context, m, k)
                wanted = (x.double() @ weights[0].double().T) * scales.double()
                for share in SHARES[-1:] if context.tiny else SHARES:
                    if m > 64 and share:
                        continue
                    kernel.PROGRAMS_PER_PROCESSOR = share
                    for _ in range(2):
                        got = ops_of(context).linear_int8(x, weights[0], scales)
                        worst = max(worst, reference.relative_error(got, wanted))
                    row = {"m": m, "n": n, "k": k, "tile": str(shape), "share to": share}
                    multiply = partial(ops_of(context).linear_int8, x, scales=scales)
                    calls: list[Call] = [partial(multiply, weight=weight) for weight in weights]
                    found.append(guarded(row, partial(streamed, context, calls, weights[0])))
    finally:
        kernel.TILES.update(kept)
        kernel.PROGRAMS_PER_PROCESSOR = programs
    if not worst <= tolerance(context):
        return {"ok": False, "error": f"wrong by {worst:.3g}", "worst": worst}
    context.cache.setdefault("int8", []).extend(found)
    return outcome(found, worst=worst)


def int8_weights(context: Context, n: int, k: int) -> list[Tensor]:
    """Matrices that together do not fit the cache; the same ones for every variant."""
    kept = context.cache.setdefault("weights", {})
    if (n, k) not in kept:
        device = device_of(context)
        sets = copies_beyond_cache(n * k, device, 8)
        kept[n, k] = [
            torch.randint(-127, 128, (n, k), dtype=torch.int8, device=device) for _ in range(sets)
        ]
    found: list[Tensor] = kept[n, k]
    return found


def wide(context: Context, shape: tuple[int, int, int, int, int] | None) -> Result:
    """Products of few rows with weights of 16 bits by a tile, or by torch."""
    from executor.kernels import linear_int8 as kernel
    from executor.kernels.tiles import Tile

    found, worst, programs = [], 0.0, kernel.PROGRAMS_PER_PROCESSOR
    sizes = ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))
    try:
        for n, k in ((128, 256),) if context.tiny else sizes:
            weights = wide_weights(context, n, k)
            for m in (1, 16):
                x = randn(context, m, k)
                wanted = x.double() @ weights[0].double().T
                for share in (0,) if shape is None or context.tiny else SHARES:
                    kernel.PROGRAMS_PER_PROCESSOR = share
                    multiply = torch.nn.functional.linear
                    if shape is not None and not context.tiny:
                        multiply = partial(kernel.product, scales=None, tile=Tile(*shape))
                    worst = max(worst, reference.relative_error(multiply(x, weights[0]), wanted))
                    row = {"m": m, "n": n, "k": k, "tile": str(shape), "share to": share}
                    calls: list[Call] = [partial(multiply, x, weight) for weight in weights]
                    found.append(guarded(row, partial(streamed, context, calls, weights[0])))
    finally:
        kernel.PROGRAMS_PER_PROCESSOR = programs
    if not worst <= tolerance(context):
        return {"ok": False, "error": f"wrong by {worst:.3g}", "worst": worst}
    context.cache.setdefault("wide", []).extend(found)
    return outcome(found, worst=worst)


def wide_weights(context: Context, n: int, k: int) -> list[Tensor]:
    """Matrices of 16 bits that together do not fit the cache; the same ones for every variant."""
    kept = context.cache.setdefault("wide weights", {})
    if (n, k) not in kept:
        sets = copies_beyond_cache(2 * n * k, device_of(context), 8)
        kept[n, k] = [randn(context, n, k, scale=0.02) for _ in range(sets)]
    found: list[Tensor] = kept[n, k]
    return found


def streamed(context: Context, calls: list[Call], weight: Tensor) -> Row:
    """Time of a product and bytes of weights per second."""
    timing = time_calls(calls, device_of(context), 0.02)
    rate = weight.numel() * weight.itemsize / timing.seconds
    return {"us": timing.seconds * 1e6, "GB/s": rate / 1e9, "share": rate / ceiling(context)}


def prefill_tiles(context: Context, rows: int, change: dict[str, int]) -> Result:
    """A variant of prefill attention."""
    from executor.kernels import prefill_attention as kernel
    from executor.kernels.tiles import capability

    key = capability(device_of(context))
    kept = kernel.TILES[key]
    try:
        kernel.TILES[key] = {n: table for n, table in kept.items() if n <= rows}
        with tiles("prefill_attention", change):
            error = prefill_error(context)
        found = prefill(context, change)
    finally:
        kernel.TILES[key] = kept
    if not error <= tolerance(context):
        return {"ok": False, "error": f"wrong by {error:.3g}", "worst": error}
    for row in found["rows"]:
        row["tile"] = f"rows={rows} {row['tile']}"
    context.cache.setdefault("prefill", []).extend(found["rows"])
    return outcome(found["rows"], worst=error)


def prefill_error(context: Context) -> float:
    """The worst relative error of a chunk, over precisions and mixes."""
    return max(prefill_case_error(context, "llama-8b", shares) for shares in ({}, {4: 0.3, 8: 0.4}))


def ranking(context: Context) -> Result:
    """All that was measured, fastest first within each shape."""
    rows = []
    for name in ("decode", "shapes", "int8", "wide", "prefill"):
        found = [row for row in context.cache.get(name, []) if "us" in row]
        keys = ("kv", "B", "ctx", "m", "n", "k", "chunk", "context")
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in found:
            groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
        for group in groups.values():
            rows += [{"what": name, **row} for row in sorted(group, key=lambda row: row["us"])[:4]]
    return outcome(rows)


CHECKS: dict[str, Check] = {
    **{
        f"decode-{i}": partial(decode, module=module, change=change)
        for i, (module, change) in enumerate(DECODE)
    },
    "decode_shapes": decode_shapes,
    **{
        f"int8-{rows}-{i}": partial(int8, rows=rows, shape=shape)
        for rows, shapes in INT8.items()
        for i, shape in enumerate(shapes)
    },
    **{f"wide-{i}": partial(wide, shape=shape) for i, shape in enumerate((None, *WIDE))},
    **{
        f"prefill-{i}": partial(prefill_tiles, rows=rows, change=change)
        for i, (rows, change) in enumerate(PREFILL)
    },
    "ranking": ranking,
}
