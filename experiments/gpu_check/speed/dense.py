"""How fast the kernels are that are not attention: products, experts and all that only streams."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from executor.bench.attention import Heads
from executor.calibration.cases import RandomArena
from executor.calibration.timing import Call, copies_beyond_cache, time_calls
from experiments.gpu_check.checks import Context, Result
from experiments.gpu_check.rows import Row, guarded, outcome, streamed
from experiments.gpu_check.setting import device_of, dtype_of, heads_of, ops_of, randn


def dense_products(context: Context) -> Result:
    """torch's own 16-bit products of the same layers, for the share that a step can reach."""
    rows, device = [], device_of(context)
    sizes = (
        ((128, 64),)
        if context.tiny
        else ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096))
    )
    for (n, k), m in product(sizes, (1, 17) if context.tiny else (1, 32, 128, 2048)):
        sets = copies_beyond_cache(2 * n * k, device, 8)
        weights = [randn(context, n, k, scale=0.02) for _ in range(sets)]
        x = randn(context, m, k)

        def measure(x: Tensor = x, weights: Any = weights, flops: float = 2.0 * m * n * k) -> Row:
            calls: list[Call] = [partial(torch.nn.functional.linear, x, w) for w in weights]
            timing = time_calls(calls, device, 0.03)
            rate = weights[0].numel() * weights[0].element_size() / timing.seconds
            return {
                "us": timing.seconds * 1e6,
                "GB/s": rate / 1e9,
                "TFLOP/s": flops / timing.seconds / 1e12,
            }

        rows.append(guarded({"m": m, "n": n, "k": k}, measure))
        del weights
    return outcome(rows)


def streaming(context: Context) -> Result:
    """Bytes/s of everything that only streams: norm, activation, rope, requantise, block copy."""
    rows = []
    for name, nbytes, calls in _streams(context):

        def measure(calls: list[Call] = calls, nbytes: float = nbytes) -> Row:
            timing = time_calls(calls, device_of(context), 0.04)
            return streamed(context, nbytes, timing.seconds)

        rows.append(guarded({"kernel": name}, measure))
    return outcome(rows)


def _streams(context: Context) -> Iterator[tuple[str, float, list[Call]]]:
    """Kernel, bytes moved at the least, and calls on different data."""
    ops, heads = ops_of(context), heads_of(context)
    hidden, width = (64, 128) if context.tiny else (4096, 14336)
    item = dtype_of(context).itemsize
    for rows in (1, 33) if context.tiny else (1, 32, 512, 8192):
        sets = copies_beyond_cache(2 * rows * hidden * item, device_of(context), 16)
        xs = [(randn(context, rows, hidden), randn(context, rows, hidden)) for _ in range(sets)]
        weight = randn(context, hidden)
        yield (
            f"rms_norm+residual {rows}x{hidden}",
            4.0 * rows * hidden * item,
            [partial(ops.rms_norm, x, weight, 1e-5, r) for x, r in xs],
        )
        wide = [randn(context, rows, 2 * width) for _ in range(min(4, sets))]
        yield (
            f"silu_mul {rows}x{width}",
            3.0 * rows * width * item,
            [partial(ops.silu_mul, x) for x in wide],
        )
    yield from _block_streams(context, heads)


def _block_streams(context: Context, heads: Heads) -> Iterator[tuple[str, float, list[Call]]]:
    ops, layout, device = ops_of(context), heads.layout, device_of(context)
    count = 4 if context.tiny else 128
    source = RandomArena(layout, 2 * count, device)
    blocks = {bits: torch.from_numpy(found).to(device) for bits, found in source.offsets.items()}
    for before, after in ((16, 8), (16, 4), (8, 4)):
        size = layout.block_bytes[before] + layout.block_bytes[after]
        yield (
            f"requantise {before}->{after}",
            float(count * size),
            [
                partial(
                    ops.requantise,
                    source.arena,
                    layout,
                    blocks[before][i * count : (i + 1) * count],
                    blocks[after][i * count : (i + 1) * count],
                    before,
                    after,
                )
                for i in range(2)
            ],
        )
    size = layout.block_bytes[16]
    yield (
        "copy_blocks 16",
        2.0 * count * size,
        [lambda: ops.copy_blocks(source.arena, blocks[16][:count], blocks[16][count:], size)],
    )


def moe(context: Context) -> Result:
    """Mixtral's experts: bytes/s of the experts that are touched."""
    ops, rows, device = ops_of(context), [], device_of(context)
    experts, hidden, width = (4, 64, 96) if context.tiny else (8, 4096, 14336)
    gate_up = randn(context, experts, 2 * width, hidden, scale=0.02)
    down = randn(context, experts, hidden, width, scale=0.02)
    for m in (1, 9) if context.tiny else (1, 8, 32, 128, 1024):
        x = randn(context, m, hidden)
        shares, some = torch.topk(torch.rand(m, experts, device=device), 2)

        def measure(x: Tensor = x, shares: Tensor = shares, some: Tensor = some) -> Row:
            timing = time_calls([partial(ops.moe, x, shares, some, gate_up, down)], device, 0.05)
            touched = len(torch.unique(some)) / experts
            nbytes = touched * (gate_up.numel() + down.numel()) * x.element_size()
            return streamed(context, nbytes, timing.seconds)

        rows.append(guarded({"m": m}, measure))
    return outcome(rows)


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
