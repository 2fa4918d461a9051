"""Copies between the device and pinned host memory: one way, the other, and both at once.

A copy takes `setup_s + bytes / bytes_per_s`; the two are fitted to copies of block sizes queued one
behind the other, as swapping queues them. On a CPU "the device" is another part of the same memory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from executor.calibration.timing import time_calls

SIZES = (64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20)
"""Bytes of one copy."""
POOL_BYTES = {"cuda": 512 << 20, "cpu": 48 << 20}
"""Copied per timing at the most, on each side."""
MOST_COPIES = 256
IN_TURN = 8
"""Copies of one direction that are queued before those of the other: a host that queues all of one
direction first lets it run alone meanwhile.
"""

Link = dict[str, float]


def measure_links(device: torch.device, seconds: float) -> dict[str, Link]:
    """`h2d`, `d2h` and `both` (bytes/s of each direction while the other one runs too)."""
    pools = Pools(device)
    share_s = seconds / 3
    found = {
        "h2d": _fit(lambda size: pools.seconds(size, ("h2d",), share_s / len(SIZES))),
        "d2h": _fit(lambda size: pools.seconds(size, ("d2h",), share_s / len(SIZES))),
    }
    both_s = median(pools.seconds(4 << 20, ("h2d", "d2h"), share_s / 3) for _ in range(3))
    setup_s = max(found["h2d"]["setup_s"], found["d2h"]["setup_s"])
    rate = (4 << 20) / max(both_s - setup_s, 1e-9)
    return {**found, "both": {"bytes_per_s": rate, "setup_s": setup_s}}


class Pools:
    """A pool on each side, and a stream for each direction."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        nbytes = POOL_BYTES[device.type]
        some = torch.randint(0, 255, (nbytes // 32,), dtype=torch.uint8).repeat(32)
        self.on_device = some.to(device, copy=True)
        self.target = torch.empty_like(self.on_device)
        pinned = device.type == "cuda"
        self.host = some.pin_memory() if pinned else some
        self.host_target = torch.empty(nbytes, dtype=torch.uint8, pin_memory=pinned)
        self.streams = {name: torch.cuda.Stream() for name in ("h2d", "d2h")} if pinned else {}

    def seconds(self, size: int, directions: tuple[str, ...], budget_s: float) -> float:
        """Of one copy of `size` bytes, in the mean over a queue of them in each direction."""
        count = min(MOST_COPIES, len(self.host) // size)
        run = self._queue(size, count, directions)
        run()
        return time_calls([run], self.device, budget_s, graph=False).seconds / count

    def start(self, size: int, count: int) -> Callable[[], bool]:
        """Queue copies both ways, beside what the device does; says whether they are over."""
        self._copy_all(size, min(count, len(self.host) // size), tuple(self.streams))
        ends = [stream.record_event() for stream in self.streams.values()]
        return lambda: any(end.query() for end in ends)

    def _queue(self, size: int, count: int, directions: tuple[str, ...]) -> Callable[[], None]:
        if self.device.type != "cuda":
            return lambda: self._copy_all(size, count, directions)

        def run() -> None:
            now = torch.cuda.current_stream()
            for name in directions:
                self.streams[name].wait_stream(now)
            self._copy_all(size, count, directions)
            for name in directions:
                now.wait_stream(self.streams[name])

        return run

    def _copy_all(self, size: int, count: int, directions: tuple[str, ...]) -> None:
        """A copy for each piece and direction, some of each in turn."""
        for first in range(0, count, IN_TURN):
            for name in directions:
                with self._on(name):
                    self._copy(name, size, range(first, min(first + IN_TURN, count)), count)

    def _on(self, direction: str) -> AbstractContextManager[Any]:
        stream = self.streams.get(direction)
        return nullcontext() if stream is None else torch.cuda.stream(stream)

    def _copy(self, direction: str, size: int, pieces: range, count: int) -> None:
        """A copy for some of `count` pieces, scattered on the device as blocks are."""
        source, target = self._sides(direction)
        for piece in pieces:
            begin = piece * size
            other = (piece * 7919 % count) * size
            far, near = (other, begin) if direction == "d2h" else (begin, other)
            target[near : near + size].copy_(source[far : far + size], non_blocking=True)

    def _sides(self, direction: str) -> tuple[Tensor, Tensor]:
        if direction == "h2d":
            return self.host, self.target
        return self.on_device, self.host_target


def _fit(seconds: Callable[[int], float]) -> Link:
    """Least squares of `setup + size / rate`, each size weighted by its own time."""
    sizes = np.array(SIZES, dtype=float)
    taken = np.array([seconds(size) for size in SIZES])
    weights = 1.0 / taken
    columns = np.stack([np.ones_like(sizes), sizes], axis=1) * weights[:, None]
    setup_s, per_byte_s = np.linalg.lstsq(columns, taken * weights, rcond=None)[0]
    if setup_s < 0.0:
        setup_s, per_byte_s = 0.0, float(np.median(taken / sizes))
    if per_byte_s <= 0.0:
        per_byte_s = float(taken[-1] / sizes[-1])
    found = {"bytes_per_s": float(1.0 / per_byte_s), "setup_s": float(setup_s)}
    pairs = zip(SIZES, taken.tolist(), strict=True)
    return found | {f"bytes_per_s_at_{size >> 10}_kib": size / took for size, took in pairs}
