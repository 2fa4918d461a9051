"""Products with 16-bit weights and more rows than our own take, where outputs are few: tiles shared
among programs beside the library, each checked before it is timed, then whole decode steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor

from executor.calibration.timing import Call, copies_beyond_cache, time_calls
from executor.kernels.tiles import Tile
from experiments.gpu_check import reference
from experiments.gpu_check.checks import Context, Result
from experiments.gpu_check.rows import Row, guarded, outcome, streamed
from experiments.gpu_check.setting import device_of, ops_of, randn, tolerance
from experiments.gpu_check.tune_steps import measured_steps

SIZES = ((4096, 14336), (6144, 4096), (4096, 4096))
"""Outputs and inputs of `down`, `qkv` and `o` of Llama-3.1-8B."""
TILES: dict[int, tuple[Tile, ...]] = {
    128: (
        Tile(rows=128, outs=128, depth=64, warps=8, stages=4),
        Tile(rows=128, outs=128, depth=128, warps=8, stages=3),
    ),
    64: (
        Tile(rows=64, outs=128, depth=64, warps=4, stages=4),
        Tile(rows=64, outs=64, depth=128, warps=4, stages=3),
        Tile(rows=64, outs=128, depth=128, warps=8, stages=4),
        Tile(rows=64, outs=256, depth=64, warps=8, stages=4),
    ),
}
"""By rows, those of `SHARED_TILES` first; none spills."""


def shared(context: Context, rows: int) -> Result:
    """Products of so many rows by the library and by each tile, and steps of as many sequences."""
    worst, found = 0.0, list[Row]()
    for n, k in ((256, 512),) if context.tiny else SIZES:
        x, weights = drawn(context, rows, n, k)
        wanted = x.double() @ weights[0].double().T
        for tile in (None, *TILES[rows]):
            with sharing(tile):
                got = ops_of(context).linear(x, weights[0])
                worst = max(worst, reference.relative_error(got, wanted))
                row = {"m": rows, "n": n, "k": k, "tile": str(tile or "library")}
                found.append(guarded(row, partial(timed, context, x, weights)))
    if not worst <= tolerance(context):
        return {"ok": False, "error": f"wrong by {worst:.3g}", "worst": worst}
    context.cache.setdefault("wide", []).extend(found)
    steps = [] if context.rehearsal else whole_steps(context, rows)
    context.cache.setdefault("steps", []).extend(steps)
    return outcome(found + steps, worst=worst)


def whole_steps(context: Context, rows: int) -> list[Row]:
    """Decode steps of the 8B as they run now, and with the first tile."""
    found = measured_steps(context, "now", (rows,))
    with sharing(TILES[rows][0]):
        return found + measured_steps(context, "shared", (rows,))


@contextmanager
def sharing(tile: Tile | None) -> Iterator[None]:
    """Have products of few outputs take this tile for a while; None: none."""
    from executor.kernels import linear

    kept = dict(linear.NARROW)
    try:
        linear.NARROW.update(dict.fromkeys(kept, (tile,) if tile else ()))
        yield
    finally:
        linear.NARROW.update(kept)


def drawn(context: Context, rows: int, n: int, k: int) -> tuple[Tensor, list[Tensor]]:
    """Rows, and matrices that together do not fit the cache."""
    sets = copies_beyond_cache(2 * n * k, device_of(context), 8)
    weights = [randn(context, n, k, scale=k**-0.5) for _ in range(sets)]
    return randn(context, rows, k), weights


def timed(context: Context, x: Tensor, weights: list[Tensor]) -> Row:
    """Time of a product and bytes of weights per second."""
    multiply = partial(ops_of(context).linear, x)
    calls: list[Call] = [partial(multiply, weight) for weight in weights]
    timing = time_calls(calls, device_of(context), 0.02)
    return streamed(context, weights[0].numel() * weights[0].itemsize, timing.seconds)
