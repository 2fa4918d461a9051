"""Products with int8 weights, each variant checked before it is timed: tiles of few rows and many,
and weights that are widened before a library multiplies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor

from executor.calibration.timing import captured, copies_beyond_cache
from experiments.gpu_check.checks import Context, Result
from experiments.gpu_check.kernels import reference
from experiments.gpu_check.rows import Row, guarded, timed, told
from experiments.gpu_check.setting import device_of, ops_of, randn

SIZES_70B: tuple[tuple[int, int], ...] = ((57344, 8192), (8192, 8192))
SIZES: tuple[tuple[int, int], ...] = (*SIZES_70B, (28672, 4096), (4096, 14336))
"""Outputs and inputs of layers of Llama-3.1-70B and 8B."""
INT8: dict[int, tuple[tuple[int, int, int, int, int], ...]] = {
    32: (
        (32, 64, 128, 2, 3),
        (32, 128, 128, 4, 3),
        (32, 128, 64, 2, 3),
        (32, 128, 64, 4, 3),
        (32, 128, 128, 2, 3),
        (32, 128, 64, 4, 4),
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
"""By rows of activations: rows, outputs, depth, warps and stages of tiles; of 32 rows the one that
runs now first."""
SHARES: tuple[int, ...] = (8, 0)
"""Warps per multiprocessor up to which tiles are cut into slices; most first, because the counters
of shared tiles are as many as the first product of a process can need."""
WIDEN_ROWS: tuple[int, ...] = (2048, 512, 1024, 8192)
"""Rows for which weights are widened; up to 1,024 they may be those of a captured step."""
PIECES_MIB: tuple[int, ...] = (128, 32, 1024)
"""Of the scratch: the table's, one that stays in the L2, and one for any matrix whole."""
CHECKED_ROWS, CHECKED_OUTS = 256, 8192
"""Rows of a product that are compared with float64, and outputs of them at a time: a whole matrix
of numbers of 8 bytes, in each of the processes that rehearse, is more than some devices hold.
"""


def tile(context: Context, rows: int, shape: tuple[int, int, int, int, int]) -> Result:
    """One tile for products of so many rows: right, and its time by matrix and slices."""
    from executor.kernels import linear as kernel
    from executor.kernels.tiles import Tile

    worst, found = 0.0, list[Row]()
    with patch.object(kernel, "tile_of_product", lambda *_: Tile(*shape)):
        for n, k in sizes(context):
            x, weights, scales = drawn(context, rows, n, k)
            for share in SHARES[:1] if context.tiny else SHARES:
                row = {"m": rows, "n": n, "k": k, "tile": str(shape), "share to": share}
                with patch.object(kernel, "WARPS_PER_PROCESSOR", share):
                    for _ in range(2):
                        worst = max(worst, error(context, x, weights[0], scales))
                    found.append(guarded(row, partial(rated, context, x, weights, scales)))
    return told(context, "int8", found, worst)


def widened(context: Context, rows: int) -> Result:
    """Products of so many rows: as they run now, and with weights widened in pieces of each size.

    Right, the same from a graph where steps of such a size are captured, and how long.
    """
    if context.rehearsal and rows != WIDEN_ROWS[0]:
        return {"skipped": "the same kernels"}
    if context.tiny or context.rehearsal:
        rows = 40 if context.tiny else 512
    worst, found, unlike = 0.0, list[Row](), 0
    for n, k in sizes(context):
        x, weights, scales = drawn(context, rows, n, k)
        row = {"m": rows, "n": n, "k": k}
        found.append(guarded(row | {"tile": "now"}, partial(rated, context, x, weights, scales)))
        for mib in PIECES_MIB:
            with widening(1, mib << 20):
                worst = max(worst, error(context, x, weights[0], scales))
                if rows <= 1024 and not context.tiny:
                    unlike += differs_in_a_graph(context, x, weights[0], scales)
                measure = partial(rated, context, x, weights, scales)
                found.append(guarded(row | {"tile": f"widened, {mib} MiB"}, measure))
    if unlike:
        return {"ok": False, "error": f"{unlike} products differ in a graph", "worst": worst}
    return told(context, "int8", found, worst)


@contextmanager
def widening(rows: int | None, piece_bytes: int | None = None) -> Iterator[None]:
    """Widen weights from so many rows on (None: never), in pieces of so many bytes, for a while."""
    from executor.kernels import widen

    starts = widen.WIDEN_FROM
    with (
        patch.dict(starts, dict.fromkeys(starts, rows)),
        patch.object(widen, "PIECE_BYTES", piece_bytes or widen.PIECE_BYTES),
    ):
        yield


def sizes(context: Context) -> tuple[tuple[int, int], ...]:
    """Outputs and inputs of the products."""
    return ((256, 1024),) if context.tiny else SIZES


def drawn(context: Context, rows: int, n: int, k: int) -> tuple[Tensor, list[Tensor], Tensor]:
    """Fresh rows and scales, and matrices of codes that together do not fit the cache: the same
    ones for every variant.
    """
    device, kept = device_of(context), context.cache.setdefault("weights", {})
    if (n, k) not in kept:
        sets = copies_beyond_cache(n * k, device, 8)
        kept[n, k] = [
            torch.randint(-127, 128, (n, k), dtype=torch.int8, device=device) for _ in range(sets)
        ]
    weights: list[Tensor] = kept[n, k]
    return randn(context, rows, k), weights, torch.rand(n, device=device) * 0.01 + 0.001


def error(context: Context, x: Tensor, weight: Tensor, scales: Tensor) -> float:
    """Relative error of a product, of some of its rows, against float64."""
    some = slice(None, None, max(1, len(x) // CHECKED_ROWS))
    few = x[some].double()
    parts = [few @ part.double().T for part in weight.split(CHECKED_OUTS)]
    wanted = torch.cat(parts, dim=1) * scales.double()
    return reference.relative_error(ops_of(context).linear_int8(x, weight, scales)[some], wanted)


def differs_in_a_graph(context: Context, x: Tensor, weight: Tensor, scales: Tensor) -> bool:
    """Whether a captured product, replayed, gives other bits."""
    found: list[Tensor] = []
    run = captured([lambda: found.append(ops_of(context).linear_int8(x, weight, scales))])
    wanted = ops_of(context).linear_int8(x, weight, scales)
    run()
    torch.cuda.synchronize()
    return not torch.equal(found[-1], wanted)


def rated(context: Context, x: Tensor, weights: list[Tensor], scales: Tensor) -> Row:
    """Time of a product, bytes of weights and operations per second."""
    row = timed(context, partial(ops_of(context).linear_int8, x, scales=scales), weights)
    return {**row, "TFLOP/s": 2.0 * len(x) * weights[0].numel() / row["us"] / 1e6}
