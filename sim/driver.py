"""The SimPy driver: one process per replica, and the arrivals."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from simpy import Event
from simpy.events import URGENT

from sim.backend import SimBackend
from sim.environment import ExactEnvironment
from sim.oracle import Oracle
from superinfer.engine import Engine
from superinfer.errors import StuckError
from superinfer.plan import Plan
from superinfer.request import Request

Process = Generator[Event, Any, None]


class Replica:
    """Drives one engine with one simulated device."""

    def __init__(self, env: ExactEnvironment, engine: Engine, oracle: Oracle) -> None:
        self.env = env
        self.engine = engine
        self.backend = SimBackend(env, engine, oracle)
        self.backend.wake = self.wake  # type: ignore[method-assign]
        self._idle: Event | None = None
        env.process(self._loop_ahead() if engine.config.lag else self._loop())

    def submit(self, request: Request, now: float) -> None:
        """A request arrives."""
        self.engine.submit(request, now)
        self.backend.interrupted = True
        self.wake()

    def wake(self) -> None:
        """Let an idle replica look again."""
        if self._idle is not None:
            idle, self._idle = self._idle, None
            idle.succeed()

    # -- inside ---------------------------------------------------------------------------------

    def _loop(self) -> Process:
        """Plan, run, complete."""
        engine, backend = self.engine, self.backend
        now = self.env.now
        while True:
            plan = self._plan(now)
            if plan is None:
                now = yield from self._wait(now)
                continue
            outcome = yield from backend.run(plan, now)
            engine.complete(plan, outcome)
            now = outcome.end_s

    def _loop_ahead(self) -> Process:
        """The same with each plan made while the last step of the one before is running."""
        engine, backend = self.engine, self.backend
        now = self.env.now
        plan = None
        while True:
            if plan is None:
                plan = self._plan(now)
                if plan is None:
                    now = yield from self._wait(now)
                    continue
            else:
                engine.begin(plan)
            head = yield from backend.run_head(plan, now)
            if head.step_end_s:
                engine.complete(plan, head)
            now = head.end_s
            following = self._plan(now)
            tail = yield from backend.run_tail(plan, now)
            engine.complete(plan, tail)
            now = tail.end_s
            backend.interrupted = backend.interrupted or bool(tail.finished)
            plan = following

    def _plan(self, now: float) -> Plan | None:
        """Ask for the next plan; whatever happened until now is known to it."""
        self.backend.interrupted = False
        return self.engine.plan(now)

    def _wait(self, now: float) -> Generator[Event, Any, float]:
        """Sleep until something happens or the scheduler wants to be asked; returns the time."""
        self._idle = self.env.event()
        wakeup_s = self.engine.next_wakeup(now)
        if wakeup_s is not None:
            alarm = self.env.at(wakeup_s)
            assert alarm.callbacks is not None
            idle = self._idle
            alarm.callbacks.append(lambda _: self.wake() if self._idle is idle else None)
        yield self._idle
        return self.env.now


def arrivals(env: ExactEnvironment, requests: Sequence[Request], replica: Replica) -> Process:
    """Submit an open-loop workload at its arrival times (sorted)."""
    for request in requests:
        if request.arrival_s > env.now:
            yield env.at(request.arrival_s, URGENT)
        replica.submit(request, request.arrival_s)


def simulate(engine: Engine, requests: Sequence[Request], oracle: Oracle) -> Replica:
    """Run a workload to its end on one replica. StuckError if requests are left for ever."""
    start_s = requests[0].arrival_s if requests else 0.0
    env = ExactEnvironment(min(0.0, start_s))
    replica = Replica(env, engine, oracle)
    env.process(arrivals(env, requests, replica))
    env.run()
    if engine.live:
        waiting = next(iter(engine.live))
        raise StuckError(
            f"{len(engine.live)} requests can never run (first: {waiting.request.request_id})"
        )
    return replica
