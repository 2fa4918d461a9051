"""How fast each kernel is, with a handful of tile variants of those that are made of tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from itertools import product
from typing import Any

import torch

from executor.bench.attention import (
    PEERS,
    Heads,
    Peer,
    decode_bytes,
    prefill_flops,
    sdpa_prefill,
    time_decode,
    time_prefill,
)
from executor.bench.paged_peers import PAGED_DECODES, PAGED_PREFILLS
from executor.bench.steps import arena_room
from executor.calibration.cases import RandomArena
from executor.calibration.ceilings import gemm_rate
from executor.calibration.timing import Call, copies_beyond_cache, time_calls
from executor.steps.items import ItemBudget
from experiments.gpu_check.checks import Check, Context, Result
from experiments.gpu_check.rows import Row, guarded, outcome, streamed
from experiments.gpu_check.setting import device_of, heads_of, ops_of, randn
from experiments.gpu_check.speed_dense import dense_products, moe, streaming

DECODE_VARIANTS: tuple[dict[str, int], ...] = (
    {},
    {"byte_stages": 3, "nibble_stages": 3},
    {"registers": 232},
    {"tile": 16, "stages": 3},
)
PREFILL_VARIANTS: tuple[dict[str, int], ...] = (
    {},
    {"keys": 64, "num_warps": 4, "num_stages": 2},
    {"keys": 128, "num_warps": 4, "num_stages": 2},
    {"keys": 64, "num_warps": 4, "num_stages": 3},
    {"keys": 64, "num_warps": 8, "num_stages": 2},
    {"keys": 128, "num_warps": 8, "num_stages": 2},
)


def arena_of(context: Context, heads: Heads, bits: int, blocks: int) -> RandomArena:
    """An arena with that many blocks of `bits`, if they fit, and some of 16 bits for tails."""
    device, size = device_of(context), heads.layout.block_bytes[bits]
    blocks = 64 if context.rehearsal else max(64, min(blocks, arena_room(device) // (2 * size)))
    return RandomArena(heads.layout, {16: 160, bits: blocks + 160}, device)


@contextmanager
def tiles(module: str, change: dict[str, int]) -> Iterator[None]:
    """Change the tile table of a kernel for this device, for a while."""
    from executor.kernels.tiles import capability

    table = import_module(f"executor.kernels.{module}").TILES
    key = capability(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    kept = table[key]
    try:
        if change:
            table[key] = _changed(kept, change)
        yield
    finally:
        table[key] = kept


def _changed(entry: Any, change: dict[str, int]) -> Any:
    if isinstance(entry, dict) and all(isinstance(inner, dict) for inner in entry.values()):
        return {rows: _changed(inner, change) for rows, inner in entry.items()}
    unknown = set(change) - set(entry)
    if unknown:
        raise KeyError(f"the tile table has no {', '.join(sorted(unknown))}: {entry}")
    return {**entry, **change}


def label(change: dict[str, int]) -> str:
    """A variant in words."""
    return " ".join(f"{key}={value}" for key, value in change.items()) or "default"


def decode_tiles(context: Context, change: dict[str, int]) -> Result:
    """A variant of the decode kernel, B=32 with 8k each."""
    heads, rows = heads_of(context), []
    contexts = [257] * 2 if context.tiny else [8192] * 32
    for bits in (16, 8, 4):
        source = arena_of(context, heads, bits, sum(contexts) // 32)
        measure = partial(decode_row, context, heads, source, contexts, bits)
        row = {"kv": bits, "tile": label(change)}
        with tiles("decode_attention", change):
            rows.append(guarded(row, measure))
        del source, measure
    return outcome(rows)


def decode_row(
    context: Context,
    heads: Heads,
    source: RandomArena,
    contexts: list[int],
    bits: int,
    budget: ItemBudget | None = None,
) -> Row:
    """Time of one layer's decode attention and the bytes that it reads per second."""
    budget = budget or ItemBudget.of(heads.layout, device_of(context))
    budget_s = 0.02 if context.tiny else 0.06
    timing = time_decode(ops_of(context), heads, source, contexts, bits, budget, budget_s)
    return streamed(context, decode_bytes(heads, contexts, bits), timing.seconds)


def decode_shapes(context: Context) -> Result:
    """Batches and contexts of the table of floors, per precision and number of work items."""
    heads, rows = heads_of(context), []
    points = (
        ((2, 65),) if context.tiny else ((1, 1024), (1, 32768), (32, 1024), (128, 1024), (64, 4096))
    )
    for bits in (16, 8, 4):
        source = arena_of(context, heads, bits, 8192)
        for (batch, length), (programs, shortest) in product(
            points, ((4, 128), (2, 128), (8, 128), (8, 64), (16, 64))
        ):
            budget = _budget(context, heads, programs, shortest)
            row = {"kv": bits, "B": batch, "ctx": length, "programs": programs, "least": shortest}
            contexts = [length] * batch
            measure = partial(decode_row, context, heads, source, contexts, bits, budget)
            rows.append(guarded(row, measure))
        del source, measure
    return outcome(rows)


def _budget(context: Context, heads: Heads, programs: int, shortest_tokens: int) -> ItemBudget:
    """Work items for so many programs per multiprocessor, of so many tokens at the least."""
    processors = 8
    if not context.tiny:
        processors = torch.cuda.get_device_properties(0).multi_processor_count
    shortest = max(1, shortest_tokens // heads.layout.block_tokens)
    return ItemBudget(-(-processors * programs // heads.layout.kv_heads), shortest)


def peer_points(context: Context) -> tuple[tuple[int, int], ...]:
    """Sequences and context of the decodes that are compared."""
    if context.tiny:
        return ((2, 64),)
    return ((1, 1024), (1, 32768), (32, 1024), (32, 8192), (128, 1024))


def decode_peers(context: Context) -> Result:
    """Others' decode attention: torch's over dense keys and values of 16 bits, and over pages."""
    heads, rows = heads_of(context), []
    points = peer_points(context)
    for (name, peer), (batch, length) in product({**PEERS, **PAGED_DECODES}.items(), points):
        if name == "FlexAttention" and context.tiny:
            continue
        if context.options["fast"] and name == "FlexAttention" and batch != 32:
            continue
        row = {"peer": name, "B": batch, "ctx": length}

        def measure(peer: Any = peer, batch: int = batch, length: int = length) -> Row:
            timing = peer(heads, batch, length, device_of(context), 0.05)
            return streamed(context, decode_bytes(heads, [length] * batch, 16), timing.seconds)

        rows.append(guarded(row, measure))
    return outcome(rows)


def prefill(context: Context, change: dict[str, int]) -> Result:
    """TFLOP/s of a variant of prefill attention."""
    heads, rows = heads_of(context, layers=4), []
    source = arena_of(context, heads, 16, 2048)
    peak = gemm_rate(device_of(context), 0.1)
    for chunk in prefill_chunks(context):
        row = {"tile": label(change), "chunk": chunk[0], "context": chunk[1]}

        def measure(chunk: tuple[int, int] = chunk) -> Row:
            with tiles("prefill_attention", change):
                timing = time_prefill(ops_of(context), heads, source, chunk, 0.06)
            return _rate(prefill_flops(heads, chunk), timing.seconds, peak)

        rows.append(guarded(row, measure))
    return outcome(rows, gemm_flops=peak)


def prefill_chunks(context: Context) -> tuple[tuple[int, int], ...]:
    """Chunks `(tokens, context before)`."""
    return ((40, 0), (9, 30)) if context.tiny else ((2048, 0), (8192, 0), (512, 8192))


def prefill_peers(context: Context) -> Result:
    """TFLOP/s of others' attention over whole prompts."""
    heads, rows, device = heads_of(context, layers=4), [], device_of(context)
    peak = gemm_rate(device, 0.1)
    for tokens, before in prefill_chunks(context):
        if before:
            continue

        for name, peer in ({"torch SDPA": sdpa_prefill} | PAGED_PREFILLS).items():

            def measure(peer: Peer = peer, tokens: int = tokens) -> Row:
                timing = peer(heads, 1, tokens, device, 0.06)
                return _rate(prefill_flops(heads, (tokens, 0)), timing.seconds, peak)

            rows.append(guarded({"kernel": name, "chunk": tokens}, measure))
    return outcome(rows, gemm_flops=peak)


def _rate(flops: float, seconds: float, peak: float) -> Row:
    rate = flops / seconds
    return {"us": seconds * 1e6, "TFLOP/s": rate / 1e12, "share": rate / peak}


def int8_products(context: Context) -> Result:
    """Bytes/s of products with int8 weights, those of 8B and 70B layers."""
    ops, rows, device = ops_of(context), [], device_of(context)
    large = ((28672, 4096), (4096, 14336), (57344, 8192), (8192, 8192))
    sizes = ((128, 64),) if context.tiny else large
    counts = (1, 17) if context.tiny else (1, 16, 32, 64, 256)
    for n, k in sizes:
        sets = copies_beyond_cache(n * k, device, 8)
        weights = [
            torch.randint(-127, 128, (n, k), dtype=torch.int8, device=device) for _ in range(sets)
        ]
        scales = torch.rand(n, device=device)
        for m in counts:
            x = randn(context, m, k)
            calls: list[Call] = [partial(ops.linear_int8, x, w, scales) for w in weights]

            def measure(calls: list[Call] = calls, nbytes: int = n * k) -> Row:
                timing = time_calls(calls, device, 0.04)
                return streamed(context, nbytes, timing.seconds)

            rows.append(guarded({"m": m, "n": n, "k": k}, measure))
        del weights, calls
    return outcome(rows)


def _variants(
    name: str, check: Callable[..., Result], found: tuple[dict[str, int], ...]
) -> dict[str, Check]:
    """A check for each variant, so that they can be compiled side by side."""
    return {f"{name}-{i}": partial(check, change=change) for i, change in enumerate(found)}


CHECKS: dict[str, Check] = {
    "decode_shapes": decode_shapes,
    **_variants("decode_tiles", decode_tiles, DECODE_VARIANTS),
    **_variants("prefill", prefill, PREFILL_VARIANTS),
    "prefill_peers": prefill_peers,
    "int8": int8_products,
    "streaming": streaming,
    "dense_products": dense_products,
    "moe": moe,
    "decode_peers": decode_peers,
}
