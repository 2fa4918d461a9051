"""Carries out the orders of plans: copies between device and host, and what moves on the device.

Each direction has a lane of its own beside that which computes. The rules of order:

* A copy starts after all that was given to the device before, the running step included.
* What is given to the device afterwards waits for copies that a step needs (`before_step`), to the
  host as well, because the places they read may be written anew. Nothing ever waits for others.
* The lanes wait for each other only where two copies touch the same memory, on either side.

Nobody waits on the CPU: `poll` asks which background copies are over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import Tensor

from executor.kernels.ops import Ops
from executor.kv.arena import Arena, HostArena
from executor.kv.streams import Lane, Mark, Streams
from executor.kv.tables import CopyJob, MoveJob, Moves, Offsets, RequantiseJob, WaitJob
from executor.steps.packing import sent
from superinfer.plan import Transfer


@dataclass(slots=True, eq=False)
class _Spans:
    """Stretches of memory on one side, each [start, end) in bytes; both sorted."""

    starts: Offsets
    ends: Offsets

    @classmethod
    def of(cls, places: Offsets, sizes: Offsets) -> _Spans:
        """Blocks of these sizes; no two of them overlap."""
        return cls(np.sort(places), np.sort(places + sizes))

    def meet(self, others: _Spans) -> bool:
        """True if a byte is in both."""
        begun = np.searchsorted(others.starts, self.ends, "left")
        over = np.searchsorted(others.ends, self.starts, "right")
        return bool((begun > over).any())


@dataclass(slots=True, eq=False)
class _Flight:
    """A copy that was started."""

    job: CopyJob
    mark: Mark
    device: _Spans
    host: _Spans
    awaited: bool
    """True if the computing lane waits for it already, or need not."""

    def touches(self, other: _Flight) -> bool:
        """True if both are about the same memory."""
        return self.device.meet(other.device) or self.host.meet(other.host)


class Mover:
    """Starts what `BlockManager` orders, and knows when it is over."""

    def __init__(self, arena: Arena, host: HostArena | None, ops: Ops, streams: Streams) -> None:
        self._arena, self._host, self._ops, self._streams = arena, host, ops, streams
        self._flights: list[_Flight] = []
        """Copies that are not known to be over, in the order of their start."""
        self._computed: Mark = None
        """Behind all that the computing lane had when it was last asked."""

    @property
    def busy(self) -> bool:
        """True while a copy may be under way."""
        return bool(self._flights)

    def start(self, moves: Moves) -> None:
        """Start all orders of a plan, before its first step is given to the device."""
        if not moves.orders:
            return
        self._computed = self._streams.mark("compute")
        for order in moves.orders:
            if isinstance(order, CopyJob):
                self._copy(order)
            elif isinstance(order, WaitJob):
                self._wait_for(order.after)
                self._computed = self._streams.mark("compute")
            else:
                self._change(order)
        self._await_copies()

    def poll(self) -> list[Transfer]:
        """Background copies that are over since last asked, each direction in order."""
        landed, left = [], []
        for flight in self._flights:
            if not self._streams.reached(flight.mark):
                left.append(flight)
            elif flight.job.background:
                assert flight.job.transfer is not None
                landed.append(flight.job.transfer)
        self._flights = left
        return landed

    # -- on the device --------------------------------------------------------------------------

    def _change(self, order: RequantiseJob | MoveJob) -> None:
        """Blocks get other places, and maybe fewer bits."""
        self._await_copies()
        arena, ops = self._arena, self._ops
        sources, targets = self._places(order.sources), self._places(order.targets)
        if isinstance(order, MoveJob):
            self._wait_for(order.after)
            nbytes = arena.size.block_bytes[order.bits]
            self._streams.run(
                "compute", lambda: ops.copy_blocks(arena.tensor, sources, targets, nbytes)
            )
        else:
            before, after = order.from_bits, order.to_bits
            self._streams.run(
                "compute",
                lambda: ops.requantise(arena.tensor, arena.layout, sources, targets, before, after),
            )
        self._computed = self._streams.mark("compute")

    def _wait_for(self, jobs: list[CopyJob]) -> None:
        """The computing lane waits for background copies."""
        for flight in self._flights:
            if flight.job in jobs:
                self._streams.wait("compute", flight.mark)

    def _places(self, offsets: Offsets) -> Tensor:
        """On the device."""
        return sent(offsets, self._arena.tensor.device)

    def _await_copies(self) -> None:
        """The computing lane waits for the copies that a step waits for."""
        for flight in self._flights:
            if not flight.awaited:
                self._streams.wait("compute", flight.mark)
                flight.awaited = True

    # -- between device and host ----------------------------------------------------------------

    def _copy(self, job: CopyJob) -> None:
        """Put a copy on its lane, behind those of the other lane that touch the same memory."""
        lane: Lane = job.direction
        sizes = _sizes(job, self._arena.size.block_bytes)
        device, host = _Spans.of(job.device, sizes), _Spans.of(job.host, sizes)
        flight = _Flight(job, None, device, host, job.background)
        self._streams.wait(lane, self._computed)
        for other in self._flights:
            if other.job.direction != lane and flight.touches(other):
                self._streams.wait(lane, other.mark)
        stretches = list(self._stretches(job))
        self._streams.run(lane, lambda: _copy_all(stretches, lane))
        flight.mark = self._streams.mark(lane)
        self._flights.append(flight)

    def _stretches(self, job: CopyJob) -> Iterator[tuple[Tensor, Tensor]]:
        """The memory on the device and on the host of each stretch of consecutive blocks."""
        host = self._host
        assert host is not None or not len(job.device)
        for first, stop, nbytes in runs(job, self._arena.size.block_bytes, host):
            assert host is not None
            start = int(job.device[first])
            size = (stop - first) * nbytes
            yield self._arena.tensor[start : start + size], host.view(int(job.host[first]), size)


def runs(
    job: CopyJob, block_bytes: dict[int, int], host: HostArena | None
) -> Iterator[tuple[int, int, int]]:
    """Stretches of blocks that lie together on both sides: first, stop, and bytes of a block."""
    count = len(job.device)
    if not count or host is None:
        return
    sizes = _sizes(job, block_bytes)
    together = (job.bits[1:] == job.bits[:-1]) & (np.diff(job.device) == sizes[:-1])
    chunks = host.chunks_of(job.host)
    together &= (np.diff(job.host) == sizes[:-1]) & (chunks[1:] == chunks[:-1])
    edges = [0, *(np.flatnonzero(~together) + 1).tolist(), count]
    for first, stop in pairwise(edges):
        yield first, stop, int(sizes[first])


def _sizes(job: CopyJob, block_bytes: dict[int, int]) -> Offsets:
    """Bytes of each block of a copy."""
    return np.array([block_bytes[bits] for bits in job.bits.tolist()], np.int64)


def _copy_all(stretches: Sequence[tuple[Tensor, Tensor]], lane: Lane) -> None:
    """Queue copies between the device's memory and the host's, in this order, on one lane."""
    for device, host in stretches:
        source, target = (device, host) if lane == "d2h" else (host, device)
        target.copy_(source, non_blocking=True)
