"""Whose seconds count: those of the wall clock, or of work at a steady speed.

On a processor that others use too, the wall clock counts what they take. `SteadyTimer` counts the
work alone, as if the machine had never changed its speed: it reads the time that the thread spent
on a processor, and divides it by how much longer than a reference a yardstick (a fixed piece of the
same kind of work, `yardstick`) has just taken. Samples of the yardstick lie between the pieces
of timed work and do not count. It is for validating on a shared CPU: nobody who waits for an answer
waits by this clock, and a GPU is never timed by it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from statistics import median, quantiles
from typing import Protocol

CLOCKS = ("wall", "steady")
CLOCK_HELP = "wall, or steady: a CPU's own work at one speed, whatever else runs there."

FIRST_SAMPLES = 15
"""Of the yardstick, before anything is timed; without a reference their median is the reference."""
WINDOW = 7
"""The speed is the median of so many samples."""
EVERY_S = 0.1
"""Of timed work between two samples."""


class Timer(Protocol):
    """Seconds since some moment."""

    skips_idle: bool
    """It does not go on while nothing is done."""

    def read(self) -> float:
        """Now."""
        ...

    def rest(self) -> None:
        """Nothing that is timed is under way: what is done in here does not count."""
        ...


class WallTimer:
    """The monotonic clock."""

    skips_idle = False

    def read(self) -> float:
        """Now."""
        return time.perf_counter()

    def rest(self) -> None:
        """Time goes on."""


class SteadyTimer:
    """Processor time of this thread at the speed that a yardstick had once."""

    skips_idle = True

    def __init__(
        self,
        yardstick: Callable[[], None],
        reference_s: float = 0.0,
        processor_s: Callable[[], float] = time.thread_time,
        every_s: float = EVERY_S,
    ) -> None:
        """`reference_s` is what the yardstick takes at the speed that counts; 0: as now."""
        self._yardstick, self._processor_s, self._every_s = yardstick, processor_s, every_s
        self.samples: list[float] = []
        """Processor seconds that the yardstick took."""
        self._latest: deque[float] = deque(maxlen=WINDOW)
        yardstick()
        for _ in range(FIRST_SAMPLES):
            self._sample()
        self.reference_s = reference_s or median(self.samples)
        self._done_s = 0.0
        self._set_speed()

    def read(self) -> float:
        """Seconds of work at the reference's speed."""
        return self._done_s + (self._processor_s() - self._mark_s) * self._speed

    def rest(self) -> None:
        """Look at the speed if it is time; what was timed until now keeps the one it had."""
        if self._processor_s() - self._mark_s < self._every_s:
            return
        self._done_s = self.read()
        self._sample()
        self._set_speed()

    def report(self) -> dict[str, float]:
        """The reference, and by what the samples lie apart, as shares of it."""
        low, *_, high = quantiles(self.samples, n=20)
        reference_s = self.reference_s
        return {
            "yardstick_s": reference_s,
            "samples": len(self.samples),
            "median": median(self.samples) / reference_s,
            "p5": low / reference_s,
            "p95": high / reference_s,
        }

    # -- inside ---------------------------------------------------------------------------------

    def _sample(self) -> None:
        begin_s = self._processor_s()
        self._yardstick()
        self.samples.append(self._processor_s() - begin_s)
        self._latest.append(self.samples[-1])

    def _set_speed(self) -> None:
        self._speed = self.reference_s / median(self._latest)
        self._mark_s = self._processor_s()


_chosen: ContextVar[Timer] = ContextVar("timer")
_WALL = WallTimer()


def current_timer() -> Timer:
    """Whose seconds count here; the wall clock's, if nobody says otherwise."""
    return _chosen.get(_WALL)


@contextmanager
def timed_by(timer: Timer) -> Iterator[Timer]:
    """Another timer for what is measured inside."""
    token = _chosen.set(timer)
    try:
        yield timer
    finally:
        _chosen.reset(token)
