"""The SimPy driver: one process per replica, and the arrivals. `cluster.py` has many replicas."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from math import inf, isnan
from typing import Any, Final, NamedTuple

from simpy import Event
from simpy.events import NORMAL, URGENT

from sim.backend import SimBackend
from sim.environment import ExactEnvironment
from sim.load import OPEN_LOOP, ClosedLoad, LoadModel, send_at
from sim.oracle import Oracle
from superinfer.costs import Coverage
from superinfer.engine.engine import MAX_IDLE_DECISIONS, Engine
from superinfer.errors import PlanError, stuck_error
from superinfer.plan import Outcome, Plan
from superinfer.request import Request

Process = Generator[Event, Any, None]
MAX_IDLE_WAKEUPS: Final = 100_000
"""In a row, without a plan or an arrival: 100 s of being asked every millisecond."""


class Replica:
    """Drives one engine with one simulated device."""

    def __init__(
        self,
        env: ExactEnvironment,
        engine: Engine,
        oracle: Oracle,
        due: deque[Request] | None = None,
        stop_s: float = inf,
        coming: Iterable[Request] = (),
    ) -> None:
        """`due` holds requests to take in before the next decision, `coming` those that arrive at
        their times (sorted); `stop_s` ends the run.
        """
        self.env = env
        self.engine = engine
        self.backend = SimBackend(env, engine, oracle, self.wake, coming)
        self._due: deque[Request] = deque() if due is None else due
        self.send: Callable[[Request, float], None] = self.submit
        """Where those of `due` go; in a cluster, to whoever is to have them."""
        self.on_change: Callable[[], None] | None = None
        """Called when the engine has decided or completed, before anybody else can ask it."""
        self._stop_s = stop_s
        self._idle: Event | None = None
        self._idled_at = (-inf, 0)
        """When it last had nothing to do, and how often at that very time."""
        self._idle_wakeups = 0
        """How often it was woken for nothing since a plan or an arrival."""
        self.process = env.process(self._loop_ahead() if engine.config.lag else self._loop())

    def submit(self, request: Request, now: float) -> None:
        """A request arrives."""
        self._idle_wakeups = 0
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
        backend = self.backend
        now = self.env.now
        while now < self._stop_s:
            plan = self._plan(now)
            if plan is None:
                now = yield from self._wait(now)
                continue
            outcome = yield from backend.run(plan, backend.start(plan, now), plan.steps)
            self._complete(plan, outcome)
            now = outcome.end_s

    def _loop_ahead(self) -> Process:
        """The same with each plan made while the last step of the one before is running."""
        engine, backend = self.engine, self.backend
        now = self.env.now
        plan = None
        while now < self._stop_s:
            if plan is None:
                plan = self._plan(now)
                if plan is None:
                    now = yield from self._wait(now)
                    continue
            else:
                engine.begin(plan)
            now = backend.start(plan, now)
            if plan.steps > 1 and not backend.interrupted and now < plan.until:
                # The last step is on the device already when the reason to stop becomes known.
                head = yield from backend.run(plan, now, plan.steps - 1)
                head.last = False
                self._complete(plan, head)
                now = head.end_s
            following = self._plan(now, ahead=True)
            tail = yield from backend.run(plan, now, plan.done_steps + 1)
            self._complete(plan, tail)
            now = tail.end_s
            backend.interrupted = backend.interrupted or bool(tail.finished)
            plan = following

    def _plan(self, now: float, ahead: bool = False) -> Plan | None:
        """Ask for the next plan; whatever happened until now is known to it."""
        self.backend.interrupted = False
        if self._due:
            self._take_in_due(now)
        plan = self._decide(now)
        while self._due:  # the decision made room for more
            self._take_in_due(now)
            if plan is None and not ahead:
                plan = self._decide(now)
        if plan is not None:
            self._idle_wakeups = 0
        return plan

    def _decide(self, now: float) -> Plan | None:
        plan = self.engine.plan(now)
        if self.on_change is not None:
            self.on_change()
        return plan

    def _complete(self, plan: Plan, outcome: Outcome) -> None:
        self.engine.complete(plan, outcome)
        if self.on_change is not None:
            self.on_change()

    def _take_in_due(self, now: float) -> None:
        while self._due:
            self.send(self._due.popleft(), now)

    def _wait(self, now: float) -> Generator[Event, Any, float]:
        """Sleep until something happens or the scheduler wants to be asked; returns the time."""
        backend, env = self.backend, self.env
        arrival_s, wakeup_s = backend.next_arrival_s, self.engine.next_wakeup(now)
        if wakeup_s is not None:
            self._count_idle(now, wakeup_s)
        if wakeup_s is None and arrival_s < inf and env.skip_to(max(now, arrival_s)):
            backend.take_arrivals(env.now)
            return env.now
        self._idle = idle = env.event()
        if arrival_s < inf:
            env.call_at(arrival_s, URGENT, lambda: backend.take_arrivals(env.now))
        if wakeup_s is not None:
            env.call_at(wakeup_s, NORMAL, lambda: self.wake() if self._idle is idle else None)
        yield idle
        return env.now

    def _count_idle(self, now: float, wakeup_s: float) -> None:
        """Refuse a scheduler that wants to be asked again at once, or for ever, and again plans
        nothing for those who are there.
        """
        expected = f"next_wakeup: expected None or a time after now ({now:g} s)"
        if isnan(wakeup_s):
            raise PlanError(f"{expected}, got nan")
        if wakeup_s <= now:
            since, times = self._idled_at
            self._idled_at = now, times + 1 if since == now else 1
            if self._idled_at[1] > MAX_IDLE_DECISIONS:
                raise PlanError(expected)
        self._idle_wakeups += 1
        if self._idle_wakeups > MAX_IDLE_WAKEUPS:
            raise PlanError(
                f"next_wakeup: the scheduler was woken {MAX_IDLE_WAKEUPS:,} times in a row until "
                f"{now:g} s and planned nothing, with {len(self.engine.live)} requests left"
            )


def arrivals(
    env: ExactEnvironment, requests: Iterable[Request], submit: Callable[[Request, float], None]
) -> Process:
    """Submit requests at their arrival times (sorted)."""
    for request in requests:
        if request.arrival_s > env.now:
            yield env.at(request.arrival_s, URGENT)
        submit(request, request.arrival_s)


class Simulated(NamedTuple):
    """What a run leaves behind beside the engine's record."""

    coverage: Coverage
    closed: ClosedLoad | None
    """What is left of a load that is not open."""


def simulate(
    engine: Engine,
    requests: Sequence[Request],
    oracle: Oracle,
    load: LoadModel = OPEN_LOOP,
    stop_s: float = inf,
    slowdown: float = 1.0,
) -> Simulated:
    """Run a workload on one replica to its end, or to the first step that ends at `stop_s`.

    Steps take `slowdown` times as long as its cost model says. Raises StuckError if requests are
    left for ever, ConfigError if the load model does not fit the requests.
    """
    start_s = requests[0].arrival_s if requests else 0.0
    env = ExactEnvironment(min(0.0, start_s))
    closed = None if load.open else ClosedLoad(load, requests)
    if closed is None:
        replica = Replica(env, engine, oracle, None, stop_s, requests)
    else:
        replica = Replica(env, engine, oracle, closed.due, stop_s)
        closed.start([engine], send_at(env, replica.submit), env.now)
        env.process(arrivals(env, closed.timed(), replica.submit))
    replica.backend.slowdown = slowdown
    run_to_end(env, [replica], stop_s)
    return Simulated(replica.backend.coverage, closed)


def run_to_end(env: ExactEnvironment, replicas: Sequence[Replica], stop_s: float) -> None:
    """Run until nothing is left to do, or to the first step boundary of each replica at or after
    `stop_s`. Raises StuckError if requests are left for ever.
    """
    if stop_s < inf:
        _stop_at(env, replicas, stop_s)
    else:
        env.run()
    waiting = [seq.request.request_id for replica in replicas for seq in replica.engine.live]
    if waiting:
        raise stuck_error(waiting)


def _stop_at(env: ExactEnvironment, replicas: Sequence[Replica], stop_s: float) -> None:
    """What is under way at the first step boundary at or after `stop_s` stays unfinished."""

    def stop() -> None:
        for replica in replicas:
            replica.backend.interrupted = True
            replica.wake()

    env.call_at(stop_s, NORMAL, stop)
    for replica in replicas:
        env.run(replica.process)
    for replica in replicas:
        replica.engine.close(max(env.now, stop_s))
