"""Swapping beside computing: how fast blocks move, and what that costs the steps meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from executor.calibration.links import Pools
from executor.calibration.timing import time_calls

Row = dict[str, Any]
LARGE_COPY = 64 << 20
"""One copy of so many bytes is what a link is taken to reach at the most."""
COPIES = 48
"""Copies in flight in each direction while steps run."""


def link_rows(device: torch.device, sizes: dict[str, int], budget_s: float = 0.15) -> list[Row]:
    """Rate of copies of blocks, each way and both at once, as a share of one large copy's rate."""
    pools, rows = Pools(device), []
    ways = {"h2d": ("h2d",), "d2h": ("d2h",), "both": ("h2d", "d2h")}
    large = min(LARGE_COPY, len(pools.host) // 2)
    tops = {way: large / pools.seconds(large, names, budget_s) for way, names in ways.items()}
    for name, size in sizes.items():
        if size > len(pools.host) // 2:
            continue
        for way, names in ways.items():
            rate = size / pools.seconds(size, names, budget_s)
            rows.append(
                {
                    "block": name,
                    "bytes": size,
                    "direction": way,
                    "bytes_per_s": rate,
                    "share_of_large": rate / tops[way],
                }
            )
    return rows


def slowdown(
    device: torch.device, step: Callable[[], object], size: int, budget_s: float = 0.3
) -> Row:
    """A step alone and with blocks of `size` bytes moving both ways all the while."""
    if device.type != "cuda":
        raise ValueError("copies beside steps need a GPU")
    alone_s = time_calls([step], device, budget_s, graph=False).seconds
    pools = Pools(device)
    copied = pools.start(size, COPIES)
    beside_s = _while_copying(step, pools, size, copied)
    return {
        "alone_s": alone_s,
        "with_swap_s": beside_s,
        "slowdown": beside_s / alone_s - 1,
        "bytes_per_step": 2 * size * COPIES,
    }


def _while_copying(
    step: Callable[[], object], pools: Pools, size: int, copied: Callable[[], bool]
) -> float:
    """Median seconds of steps during which copies were under way from beginning to end."""
    samples: list[float] = []
    for _ in range(200):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        if copied():
            copied = pools.start(size, COPIES)
        first.record()
        step()
        last.record()
        last.synchronize()
        if not copied():
            samples.append(first.elapsed_time(last) / 1000)
        if len(samples) >= 12:
            break
    torch.cuda.synchronize()
    if not samples:
        return float("nan")
    return sorted(samples)[len(samples) // 2]
