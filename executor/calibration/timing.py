"""How long device work takes: medians over many repeats, with caches defeated.

What is timed is a list of calls that do the same work on different data. On a GPU they are captured
into one graph, in order, and the graph is replayed between two events, so that the gaps between
launches are those of a graph; together their data has to be larger than the L2. On a CPU they run
one after the other, by the timer that is chosen (`timers`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

import torch

from executor.clocks.timers import current_timer

Call = Callable[[], object]

LEAST_REPEATS = 3
MOST_REPEATS = 50
SHORT_REPLAY_S, MOST_CALLS = 4e-4, 64
"""A replay that is shorter becomes one of more calls: it begins and ends with some microseconds of
its own, which would be shared by a few calls of about as many."""
CPU_BATCH_S = 1e-3
"""A CPU clock is read no more often than this: what is shorter is repeated in between."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call: the median of the repeats, and how far they lie apart."""

    seconds: float
    spread: float
    """Distance of the quartiles as a share of the median."""
    repeats: int
    best: float = 0.0
    """Seconds of the fastest repeat."""

    @classmethod
    def of(cls, samples: Sequence[float]) -> Timing:
        """Of at least one sample."""
        middle = median(samples)
        if len(samples) < 2 or middle <= 0.0:
            return cls(middle, 0.0, len(samples), min(samples))
        low, _, high = quantiles(samples, n=4)
        return cls(middle, (high - low) / middle, len(samples), min(samples))


class Deadline:
    """A moment of the timer that is chosen, after which no more work is begun."""

    def __init__(self, seconds: float) -> None:
        self._timer = current_timer()
        self._end_s = self._timer.read() + seconds

    @property
    def left_s(self) -> float:
        """Seconds left; negative once it is over."""
        return self._end_s - self._timer.read()

    @property
    def over(self) -> bool:
        """True when nothing is left."""
        return self.left_s <= 0.0


def rounds_within(most: int, deadline: Deadline) -> Iterator[int]:
    """The numbers of rounds from 0 on: the first in any case, others while there is time left."""
    for number in range(most):
        if number and deadline.over:
            return
        yield number


def time_calls(
    calls: Sequence[Call], device: torch.device, budget_s: float = 0.1, graph: bool = True
) -> Timing:
    """Seconds of one call, in the mean over `calls`, within about `budget_s` of measuring.

    With `graph` a GPU replays a captured graph; else it runs the calls eagerly between events, the
    host's launches included where they are slower than the device.
    """
    if device.type != "cuda":
        return _time_cpu(calls, budget_s)
    if not graph:
        return _time_cuda(_each(calls), len(calls), budget_s)
    run = captured(calls)
    run()
    again = -(-SHORT_REPLAY_S // max(between_events(run), 1e-9))
    if again > 1:
        calls = list(calls) * int(min(again, -(-MOST_CALLS // len(calls))))
        run = captured(calls)
    return _time_cuda(run, len(calls), budget_s)


def _each(calls: Sequence[Call]) -> Call:
    def run() -> None:
        for call in calls:
            call()

    return run


def captured(calls: Sequence[Call]) -> Call:
    """A graph of all calls. They run once before, so that all is compiled, on the stream on which
    they are captured (`StepGraphs`: why on one of their own).
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        calls[0]()
        calls[-1]()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    replay: Call = graph.replay
    return replay


def forget_workspaces(device: torch.device) -> None:
    """Free what torch keeps for cuBLAS on every stream on which there was a product, 32 MiB each on
    an H100 or H200, and it hands out 32 streams in turn. For when no graph of these is left.
    """
    if device.type == "cuda":
        torch._C._cuda_clearCublasWorkspaces()


def _time_cuda(run: Call, count: int, budget_s: float) -> Timing:
    run()
    once_s = between_events(run)
    repeats = _repeats(once_s, budget_s)
    samples = [between_events(run) / count for _ in range(repeats)]
    return Timing.of(samples)


def between_events(run: Call) -> float:
    """Seconds on a GPU from before what a call launches to behind it."""
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    run()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1000


def _time_cpu(calls: Sequence[Call], budget_s: float) -> Timing:
    run = _each(calls)
    run()
    once_s = _taken(run)
    inner = max(1, int(CPU_BATCH_S / max(once_s, 1e-9)))
    count = inner * len(calls)

    def batch() -> None:
        for _ in range(inner):
            run()

    repeats = _repeats(once_s * inner, budget_s)
    samples = []
    for _ in range(repeats):
        current_timer().rest()
        samples.append(_taken(batch) / count)
    return Timing.of(samples)


def _taken(run: Call) -> float:
    timer = current_timer()
    begin_s = timer.read()
    run()
    return timer.read() - begin_s


def _repeats(once_s: float, budget_s: float) -> int:
    return max(LEAST_REPEATS, min(MOST_REPEATS, int(budget_s / max(once_s, 1e-9))))


def copies_beyond_cache(nbytes: int, device: torch.device, most: int = 32) -> int:
    """How many input sets of `nbytes` have to take turns so that none is still cached."""
    return max(2, min(most, -(-3 * _cache_bytes(device) // max(nbytes, 1))))


def _cache_bytes(device: torch.device) -> int:
    """The last-level cache: a GPU's L2 as it states it, 32 MiB assumed on a CPU."""
    if device.type != "cuda":
        return 32 << 20
    return int(torch.cuda.get_device_properties(device).L2_cache_size)
