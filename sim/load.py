"""Load models: who sends which request when.

* open loop: at the times of the trace;
* closed sessions: a session's later turns come their think time after the end of the one before;
* closed loop: so many requests (or closed sessions) are under way, and the next one starts when one
  ends, whatever the times of the trace say;
* closed backlog of a class: so many of its requests always wait to be scheduled for the first time;
* closed loop of a class: so many of its requests are under way, the others come as the rest does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from simpy.events import URGENT

from sim.environment import ExactEnvironment
from superinfer.engine import Engine
from superinfer.errors import ConfigError
from superinfer.request import Request
from superinfer.sequence import Sequence as Live
from superinfer.settings import did_you_mean


@dataclass(slots=True, frozen=True)
class LoadModel:
    """How a workload is sent."""

    concurrency: int = 0
    """Requests, or closed sessions, under way at a time; 0: open loop."""
    closed_sessions: bool = False
    backlog: Mapping[str, int] = field(default_factory=dict)
    """Class name to the number of its requests that always wait."""
    in_flight: Mapping[str, int] = field(default_factory=dict)
    """Class name to the number of its requests that are under way."""

    @property
    def open(self) -> bool:
        """True if every request is sent at its time in the trace."""
        return not (self.concurrency or self.closed_sessions or self.backlog or self.in_flight)

    @property
    def pools(self) -> dict[str, tuple[str, int]]:
        """By class, the setting that sends its requests and the number it names."""
        double = self.backlog.keys() & self.in_flight.keys()
        if double:
            name = min(double)
            raise ConfigError(f"run.in_flight.{name}: expected a class without a backlog")
        pools = {name: ("backlog", number) for name, number in self.backlog.items()}
        return pools | {name: ("in_flight", number) for name, number in self.in_flight.items()}


OPEN_LOOP = LoadModel()
Chain = deque[Request]
"""What one client sends, one after the other's end."""


class ClosedLoad:
    """Sends what is not sent at the times of the trace, by listening to the engines of a run.

    Requests that are to arrive at once collect in `due`, because an engine that is in the middle of
    a decision takes no requests: its driver submits them between two decisions.
    """

    def __init__(self, model: LoadModel, requests: Sequence[Request]) -> None:
        self.due: deque[Request] = deque()
        self._model = model
        self._pools = _pools(model.pools, requests)
        others = [request for request in requests if request.slo_class.name not in self._pools]
        self._chains = _chains(others, model.closed_sessions)
        self._waiting: deque[Chain] = deque(self._chains if model.concurrency else ())
        self._under_way: dict[int, Chain] = {}
        self._unscheduled: set[int] = set()
        """Of the backlogs, who still waits."""
        self._in_flight: set[int] = set()
        self._send_later: Callable[[Request], None] = lambda request: None

    @property
    def left(self) -> dict[str, int]:
        """Requests of each class with a backlog or a loop of its own that have not been sent."""
        return {name: len(pool) for name, pool in self._pools.items()}

    def timed(self) -> Iterator[Request]:
        """What is sent at its time in the trace: the first request of every chain."""
        return iter(()) if self._model.concurrency else map(self.follow, self._chains)

    def start(
        self, engines: Iterable[Engine], send_later: Callable[[Request], None], now: float
    ) -> None:
        """Fill the places at time `now`; `send_later` submits a request at its arrival time."""
        self._send_later = send_later
        for engine in engines:
            engine.on_scheduled, engine.on_ended = self._scheduled, self._ended
        for _ in range(min(self._model.concurrency, len(self._waiting))):
            self._begin(self._waiting.popleft(), now)
        for name, (_, number) in self._model.pools.items():
            for _ in range(number):
                self._refill(name, now)

    def follow(self, chain: Chain) -> Request:
        """The first request of a chain that starts now; the rest follow its end."""
        request = chain.popleft()
        self._under_way[request.index] = chain
        return request

    # -- inside ---------------------------------------------------------------------------------

    def _begin(self, chain: Chain, now: float) -> None:
        self.due.append(replace(self.follow(chain), arrival_s=now))

    def _refill(self, class_name: str, now: float) -> None:
        pool = self._pools[class_name]
        if pool:
            request = pool.popleft()
            sent = self._in_flight if class_name in self._model.in_flight else self._unscheduled
            sent.add(request.index)
            self.due.append(replace(request, arrival_s=now))

    def _scheduled(self, seq: Live, now: float) -> None:
        """One of a backlog waits no longer."""
        index = seq.request.index
        if index in self._unscheduled:
            self._unscheduled.discard(index)
            self._refill(seq.request.slo_class.name, now)

    def _ended(self, seq: Live, now: float) -> None:
        """Send the chain's next turn, or begin the next chain."""
        self._scheduled(seq, now)  # turned away before it was ever scheduled
        index = seq.request.index
        if index in self._in_flight:
            self._in_flight.discard(index)
            self._refill(seq.request.slo_class.name, now)
        chain = self._under_way.pop(index, None)
        if chain is None:
            return
        if not chain:
            if self._waiting:
                self._begin(self._waiting.popleft(), now)
        elif delay_s := chain[0].delay_s:
            self._send_later(replace(self.follow(chain), arrival_s=now + delay_s))
        else:
            self._begin(chain, now)


def send_at(env: ExactEnvironment, submit: Callable[[Request, float], Any]) -> Any:
    """A function that submits a request when its arrival time has come."""

    def later(request: Request) -> None:
        env.call_at(request.arrival_s, URGENT, lambda: submit(request, request.arrival_s))

    return later


def _pools(
    settings: Mapping[str, tuple[str, int]], requests: Iterable[Request]
) -> dict[str, Chain]:
    pools: dict[str, Chain] = {name: deque() for name in settings}
    known = set()
    for request in requests:
        known.add(request.slo_class.name)
        if request.slo_class.name in pools:
            pools[request.slo_class.name].append(request)
    for name, pool in pools.items():
        if not pool:
            expected = f"expected a class of the trace ({', '.join(sorted(known))})"
            hint = did_you_mean(name, sorted(known))
            raise ConfigError(f"run.{settings[name][0]}.{name}: {expected}{hint}")
    return pools


def _chains(requests: Iterable[Request], closed_sessions: bool) -> list[Chain]:
    """A chain for every session, or for every request; in order of their first arrival."""
    chains: dict[object, Chain] = {}
    for request in requests:
        session = request.session_id if closed_sessions else None
        key = request.index if session is None else (request.namespace, session)
        chain = chains.setdefault(key, deque())
        if chain and request.delay_s is None:
            raise ConfigError(
                f"run.sessions: expected delay_ms on every later turn of a session, "
                f"got none on request {request.request_id}"
            )
        chain.append(request)
    return list(chains.values())
