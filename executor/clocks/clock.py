"""What time it is: on a real device, or by given step times.

A driver goes by `now` at step boundaries. The real clock reads the monotonic time and knows of
copies only once they have landed. `GivenTimes` says when each step and each copy would end by a
cost model, in the same way as the simulator counts, so that both drivers can be held to the same
event log; it never sleeps, and waits only for copies that should be over and are not.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from itertools import count
from math import inf
from typing import Protocol

from executor.clocks.timers import Timer, WallTimer
from executor.step_log import StepLog, waited_bytes
from superinfer.costs import between_s, hides_host
from superinfer.costs.base import CostModel, PrefillWork
from superinfer.plan import Plan, Transfer, Work
from superinfer.transfers.links import Copy, CopyQueues


class Clock(Protocol):
    """Times of one run, in seconds from its start."""

    def begin(self, plan: Plan, now: float) -> float:
        """A plan starts; returns when its batch can start."""
        ...

    def step_end(self, plan: Plan, step: int, start_s: float, ran: Work) -> float:
        """When a plan's step, started at `start_s` and over on the device, ended; it computed what
        `ran` says.
        """
        ...

    def landed(self, until: float) -> list[tuple[Transfer, float]]:
        """Background copies that landed by then and were not told of, with their times."""
        ...

    def sleep(self, now: float, until: float) -> float:
        """Nothing runs: wait until then, or until a copy may have landed; returns the time.

        `until` is infinite if only copies are waited for. Returns infinity if nothing can come.
        """
        ...


class GivenTimes:
    """Times by a cost model."""

    def __init__(self, cost: CostModel, lag: int, poll: Callable[[], list[Transfer]]) -> None:
        """`poll` gives the copies that are over on the device since the last time."""
        self._cost, self._lag, self._poll = cost, lag, poll
        self._over: set[Transfer] = set()
        """Copies that are over before their time has come."""
        self._queues = CopyQueues(cost)
        self._landings: list[tuple[float, int, Transfer, Copy]] = []
        self._numbers = count()

    def begin(self, plan: Plan, now: float) -> float:
        """Book the plan's copies on their links; those that the batch waits for come first."""
        ready_s = now
        for job in plan.requantised:
            ready_s += self._cost.requantise_s(job.nbytes, job.to_bits)
        ready_s, background = self._queues.book(plan, now, ready_s)
        for transfer, copy in zip(plan.background, background, strict=True):
            self._await(transfer, copy)
        return ready_s

    def step_end(self, plan: Plan, step: int, start_s: float, ran: Work) -> float:
        """By the cost model, for all that was planned, as the simulator knows nothing else."""
        return start_s + step_seconds(self._cost, self._lag, *plan.work_at(step))

    def landed(self, until: float) -> list[tuple[Transfer, float]]:
        """Copies whose time has come."""
        told = []
        while self._next_landing() <= until:
            end_s, _, transfer, _ = heapq.heappop(self._landings)
            self._finish(transfer)
            told.append((transfer, end_s))
        return told

    def sleep(self, now: float, until: float) -> float:
        """Jump to what comes first."""
        return max(now, min(until, self._next_landing()))

    def _finish(self, transfer: Transfer) -> None:
        """Wait until a copy is over on the device."""
        while transfer not in self._over:
            self._over.update(self._poll())
        self._over.discard(transfer)

    def _await(self, transfer: Transfer, copy: Copy) -> None:
        entry = self._queues.end_s(copy), next(self._numbers), transfer, copy
        heapq.heappush(self._landings, entry)

    def _next_landing(self) -> float:
        """When the next copy lands; later ones the other way may have delayed some."""
        while self._landings:
            end_s, _, transfer, copy = self._landings[0]
            if self._queues.end_s(copy) <= end_s:
                return end_s
            heapq.heappop(self._landings)
            self._await(transfer, copy)
        return inf


def step_seconds(
    cost: CostModel, lag: int, chunks: Sequence[PrefillWork], decodes: int, context_tokens: int
) -> float:
    """What a step takes by a cost model: host time comes first, or beside a GPU with lag 1."""
    device_s = cost.step_s(chunks, decodes, context_tokens) + between_s(cost, lag)
    host_s = cost.host_s(decodes + len(chunks))
    return max(host_s, device_s) if hides_host(cost, lag) else host_s + device_s


POLL_S = 0.0005
"""Between two looks at copies under way while nothing else is to be done."""


class RealTime:
    """Seconds of a timer, the wall's if there is no other. With `skip_idle` it jumps over times in
    which nothing is to be done.
    """

    def __init__(
        self,
        poll: Callable[[], list[Transfer]],
        pending: Callable[[], bool],
        skip_idle: bool = False,
        timer: Timer | None = None,
        log: StepLog | None = None,
    ) -> None:
        """`poll` gives the copies that have landed since the last time, `pending` says whether any
        is under way. A `timer` other than the wall's may have idle times left out in any case.
        Every step goes into the `log`.
        """
        self._poll, self._pending = poll, pending
        self._timer = timer or WallTimer()
        self._skip_idle = skip_idle or self._timer.skips_idle
        self._log = log
        self._origin_s = self._timer.read()

    def restart(self, now_s: float = 0.0) -> None:
        """Count from now on, which is that many seconds."""
        self._origin_s = self._timer.read() - now_s

    def read(self) -> float:
        """Seconds since the start."""
        return self._timer.read() - self._origin_s

    def begin(self, plan: Plan, now: float) -> float:
        """The device itself waits for what the batch waits for."""
        return now

    def step_end(self, plan: Plan, step: int, start_s: float, ran: Work) -> float:
        """The step has just been seen to be over."""
        end_s = max(start_s, self.read())
        if self._log is not None:
            self._log.add(ran, 0 if step else waited_bytes(plan), start_s, end_s)
        self._timer.rest()
        return end_s

    def landed(self, until: float) -> list[tuple[Transfer, float]]:
        """Copies that are over on the device."""
        return [(transfer, until) for transfer in self._poll()]

    def sleep(self, now: float, until: float) -> float:
        """Wait; where nothing is under way at all, idle time may be left out."""
        if self._pending():
            time.sleep(POLL_S)
        elif until == inf:
            return inf
        elif self._skip_idle:
            self._origin_s -= max(0.0, until - self.read())
        else:
            time.sleep(max(0.0, min(until - self.read(), LONGEST_SLEEP_S)))
        return max(now, self.read())


LONGEST_SLEEP_S = 0.05
"""A request to stop is heard that often."""
