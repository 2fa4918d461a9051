"""Products with 16-bit weights and more rows than our own take, where outputs are few: tiles shared
among programs beside the library, each checked before it is timed, then whole decode steps.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from unittest.mock import patch

from torch import Tensor

from executor.calibration.timing import copies_beyond_cache
from executor.kernels.tiles import Tile
from experiments.gpu_check.checks import Context, Result
from experiments.gpu_check.kernels import reference
from experiments.gpu_check.rows import Row, guarded, outcome, timed, told
from experiments.gpu_check.setting import device_of, ops_of, randn
from experiments.gpu_check.tune.steps import measured_steps

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
                multiply = partial(ops_of(context).linear, x)
                found.append(guarded(row, partial(timed, context, multiply, weights)))
    result = told(context, "wide", found, worst)
    if not result["ok"]:
        return result
    steps = [] if context.rehearsal else whole_steps(context, rows)
    context.cache.setdefault("steps", []).extend(steps)
    return outcome(found + steps, worst=worst)


def whole_steps(context: Context, rows: int) -> list[Row]:
    """Decode steps of the 8B as they run now, and with the first tile."""
    found = measured_steps(context, "now", (rows,))
    with sharing(TILES[rows][0]):
        return found + measured_steps(context, "shared", (rows,))


def sharing(tile: Tile | None) -> AbstractContextManager[object]:
    """Have products of few outputs take this tile for a while; None: none."""
    from executor.kernels.linear import NARROW

    return patch.dict(NARROW, dict.fromkeys(NARROW, (tile,) if tile else ()))


def drawn(context: Context, rows: int, n: int, k: int) -> tuple[Tensor, list[Tensor]]:
    """Rows, and matrices that together do not fit the cache."""
    sets = copies_beyond_cache(2 * n * k, device_of(context), 8)
    weights = [randn(context, n, k, scale=k**-0.5) for _ in range(sets)]
    return randn(context, rows, k), weights
