"""Swapping beside computing: how fast blocks move, and what that costs the steps meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from executor.calibration.links import Pools
from executor.calibration.timing import between_events, time_calls

Row = dict[str, Any]
LARGE_COPY = 64 << 20
"""One copy of so many bytes is what a link is taken to reach at the most."""
COPIES = 128
"""Copies queued in each direction before each step: they take longer than it."""
STEPS = 16
COPY_S, STEP_S = 0.15, 0.3
"""Of measuring, for each rate of a link and for the step alone."""


def link_rows(device: torch.device, sizes: dict[str, int]) -> list[Row]:
    """Rate of copies of blocks, each way and both at once, as a share of one large copy's rate."""
    pools, rows = Pools(device), []
    ways = {"h2d": ("h2d",), "d2h": ("d2h",), "both": ("h2d", "d2h")}
    large = min(LARGE_COPY, len(pools.host) // 2)
    tops = {way: large / pools.seconds(large, names, COPY_S) for way, names in ways.items()}
    for name, size in sizes.items():
        if size > len(pools.host) // 2:
            continue
        for way, names in ways.items():
            rate = size / pools.seconds(size, names, COPY_S)
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


def slowdown(device: torch.device, step: Callable[[], object], size: int) -> Row:
    """A step alone and with blocks of `size` bytes moving both ways all the while."""
    if device.type != "cuda":
        raise ValueError("copies beside steps need a GPU")
    alone_s = time_calls([step], device, STEP_S, graph=False).seconds
    pools, samples = Pools(device), list[float]()
    for _ in range(STEPS):
        over = pools.start(size, COPIES)
        seconds = between_events(step)
        if not over():
            samples.append(seconds)
    torch.cuda.synchronize(device)
    beside_s = median(samples) if samples else math.nan
    return {
        "alone_s": alone_s,
        "with_swap_s": beside_s,
        "slowdown": beside_s / alone_s - 1,
        "steps": len(samples),
    }
