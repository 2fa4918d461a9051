"""Several replicas of one engine in one SimPy environment, behind a router.

Every arrival is an event here: the router decides on the state of all replicas at that moment.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from operator import index
from typing import Any

from simpy.events import URGENT

from sim.driver import Replica, arrivals, run_to_end
from sim.environment import ExactEnvironment
from sim.load import ClosedLoad, LoadModel, send_at
from sim.oracle import Oracle
from superinfer.costs import Coverage
from superinfer.engine.engine import Engine, Listener
from superinfer.errors import PlanError
from superinfer.request import Request
from superinfer.routers.base import Router
from superinfer.routers.view import ReplicaView
from superinfer.schedulers.rotating.lengths import HistogramLengths
from superinfer.sequence import Sequence as Live
from superinfer.settings import shown_value


class SeenOracle(Oracle):
    """The oracle of one replica, which tells the gateway whose answer has begun."""

    def __init__(self, output_tokens: list[int], max_model_len: int, view: ReplicaView) -> None:
        Oracle.__init__(self, output_tokens, max_model_len)
        self._view = view

    def watch(self, joined: Iterable[Live]) -> None:
        """Note who joined the decode batch: its first token has come."""
        joined = list(joined)
        for seq in joined:
            self._view.began(seq.request)
        Oracle.watch(self, joined)


class Cluster:
    """Replicas, what the router sees of them, and who took what."""

    def __init__(
        self,
        env: ExactEnvironment,
        engines: Sequence[Engine],
        router: Router,
        output_tokens: list[int],
        due: deque[Request] | None = None,
        stop_s: float = inf,
    ) -> None:
        """`output_tokens` are the true answer lengths, which no router sees; for `due` and `stop_s`
        see `Replica`.
        """
        lengths = HistogramLengths()
        self.views = [ReplicaView(number, engine, lengths) for number, engine in enumerate(engines)]
        self.replicas = [
            Replica(
                env,
                engine,
                SeenOracle(output_tokens, engine.config.max_model_len, view),
                due,
                stop_s,
            )
            for engine, view in zip(engines, self.views, strict=True)
        ]
        self.sent_to = array("q")
        """The replica of each request, in the order in which they were sent."""
        self._env, self._router = env, router
        for replica, view in zip(self.replicas, self.views, strict=True):
            replica.send = partial(self._send_from, replica)
            replica.on_change = view.changed
        router.bind(self.views)

    def send(self, request: Request, now: float) -> None:
        """A request arrives: the router decides who takes it."""
        self._route(request, now).submit(request, now)

    def _send_from(self, sender: Replica, request: Request, now: float) -> None:
        """The same for one that follows a decision of `sender`. That may be of a moment to come,
        when the copies before a step are over; the others are not there yet.
        """
        replica = self._route(request, now)
        if replica is sender or now <= self._env.now:
            replica.submit(request, now)
            return
        self._env.call_at(now, URGENT, lambda: replica.submit(request, now))

    def _route(self, request: Request, now: float) -> Replica:
        number = self._chosen(request, now)
        self.sent_to.append(number)
        self.views[number].sent(request)
        return self.replicas[number]

    def _chosen(self, request: Request, now: float) -> int:
        """The router's answer, a whole number of any kind; PlanError for a replica that is none."""
        router: Any = self._router  # whose answer a compiled form would refuse in its own words
        answer = router.route(request, now)
        last = len(self.replicas) - 1
        with suppress(TypeError):
            if 0 <= (number := index(answer)) <= last:
                return number
        raise PlanError(f"route: expected a replica from 0 to {last}, got {shown_value(answer)}")

    def listen(self) -> None:
        """Tell each view who ends on its replica, before anybody else hears of it."""
        for replica, view in zip(self.replicas, self.views, strict=True):
            replica.engine.on_ended = _ended(view, replica.engine.on_ended)


class ClusterRun:
    """What the run of a cluster leaves behind beside the engines' records."""

    def __init__(self, cluster: Cluster, closed: ClosedLoad | None) -> None:
        self.closed = closed
        """What is left of a load that is not open."""
        self.sent_to = cluster.sent_to
        self.coverages = [replica.backend.coverage for replica in cluster.replicas]

    @property
    def coverage(self) -> Coverage:
        """Of all replicas."""
        total = Coverage(self.coverages[0].limits)
        for each in self.coverages:
            total.add(each)
        return total


def simulate_cluster(
    engines: Sequence[Engine],
    requests: Sequence[Request],
    output_tokens: list[int],
    router: Router,
    load: LoadModel,
    stop_s: float,
    slowdowns: Mapping[int, float],
) -> ClusterRun:
    """Run a workload on several replicas to its end, or to the first step of each that ends at
    `stop_s`.

    `slowdowns`: by the number of a replica, how many times as long its steps take as its cost model
    says. Raises StuckError if requests are left for ever, ConfigError if the load model does not
    fit the requests or the router names no replica.
    """
    start_s = requests[0].arrival_s if requests else 0.0
    env = ExactEnvironment(min(0.0, start_s))
    closed = None if load.open else ClosedLoad(load, requests)
    due = None if closed is None else closed.due
    cluster = Cluster(env, engines, router, output_tokens, due, stop_s)
    if closed is not None:
        closed.start(engines, send_at(env, cluster.send), env.now)
    for number, slowdown in slowdowns.items():
        cluster.replicas[number].backend.slowdown = slowdown
    cluster.listen()
    env.process(arrivals(env, requests if closed is None else closed.timed(), cluster.send))
    run_to_end(env, cluster.replicas, stop_s)
    return ClusterRun(cluster, closed)


# -- inside ---------------------------------------------------------------------------------------


def _ended(view: ReplicaView, then: Listener | None) -> Listener:
    def ended(seq: Live, now: float) -> None:
        view.ended(seq.request, seq.output_tokens)
        if then is not None:
            then(seq, now)

    return ended
