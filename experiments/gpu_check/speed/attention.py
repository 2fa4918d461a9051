"""How fast attention is, with a handful of tile variants."""

from __future__ import annotations

from functools import partial
from itertools import product

from executor.bench.attention import Heads, decode_bytes, prefill_flops, time_decode, time_prefill
from executor.calibration.cases import RandomArena
from executor.calibration.ceilings import gemm_rate
from executor.steps.items import ItemBudget
from experiments.gpu_check.checks import Context, Result
from experiments.gpu_check.rows import Row, guarded, outcome, streamed
from experiments.gpu_check.setting import device_of, heads_of, ops_of
from experiments.gpu_check.variants import arena_of, budget_of, label, tiles

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
            budget = budget_of(context, heads, programs, shortest)
            row = {"kv": bits, "B": batch, "ctx": length, "programs": programs, "least": shortest}
            contexts = [length] * batch
            measure = partial(decode_row, context, heads, source, contexts, bits, budget)
            rows.append(guarded(row, measure))
        del source, measure
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
            return rate_row(prefill_flops(heads, chunk), timing.seconds, peak)

        rows.append(guarded(row, measure))
    return outcome(rows, gemm_flops=peak)


def prefill_chunks(context: Context) -> tuple[tuple[int, int], ...]:
    """Chunks `(tokens, context before)`."""
    return ((40, 0), (9, 30)) if context.tiny else ((2048, 0), (8192, 0), (512, 8192))


def rate_row(flops: float, seconds: float, peak: float) -> Row:
    """What so many operations in so many seconds are, beside a product of matrices."""
    rate = flops / seconds
    return {"us": seconds * 1e6, "TFLOP/s": rate / 1e12, "share": rate / peak}
