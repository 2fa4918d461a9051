"""The simulated device: carries out plans in SimPy time with the cost model's seconds."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from collections.abc import Sequence as Items
from math import inf
from typing import Any

from simpy import Event
from simpy.events import URGENT

from sim.environment import ExactEnvironment
from sim.oracle import Oracle
from superinfer.costs import (
    Coverage,
    PrefillWork,
    SliceLine,
    StepCost,
    between_s,
    hides_host,
)
from superinfer.engine import Engine
from superinfer.plan import Outcome, Plan, Transfer
from superinfer.request import Request
from superinfer.sequence import Sequence
from superinfer.transfers.links import Copy, CopyQueues

Wait = Generator[Event, Any, Outcome]


class SimBackend:
    """One replica's device and its two copy links.

    A slice of many steps is one event: nothing can happen before the environment's next event, so
    the device jumps to the first step boundary at or after it.
    """

    def __init__(
        self,
        env: ExactEnvironment,
        engine: Engine,
        oracle: Oracle,
        wake: Callable[[], None],
        coming: Iterable[Request] = (),
    ) -> None:
        """`wake` is called when something happens; `coming` arrive at their times (sorted)."""
        self.env = env
        self.engine = engine
        self.oracle = oracle
        self.cost = engine.cost
        self.coverage = Coverage(engine.cost.limits)
        """What the steps that were run have to do with what was measured."""
        self.hides_host = hides_host(engine.cost, engine.config.lag)
        self._between_s = between_s(engine.cost, engine.config.lag)
        self.wake = wake
        self.slowdown = 1.0
        """How many times as long steps take as the cost model says."""
        self.interrupted = False
        """Set by anything that the scheduler should hear of at the next step boundary."""
        self._queues = CopyQueues(engine.cost)
        cost = engine.cost
        self._uneven = cost if isinstance(cost, StepCost) and cost.knows_longest else None
        self._longest_tokens = 0
        """The longest context of the plan that was started last, at its first step; 0 where unequal
        contexts add nothing."""
        self._coming = iter(coming)
        self._next = next(self._coming, None)
        self.next_arrival_s = inf if self._next is None else self._next.arrival_s
        """When the next of `coming` arrives."""

    def take_arrivals(self, now: float) -> None:
        """Submit who has arrived by now, each at its own time.

        Arrivals are no events: nobody acts on one before the device stops, and it stops at the
        first step boundary at or after the arrival, where this is called.
        """
        while self.next_arrival_s <= now:
            request = self._next
            assert request is not None
            self.engine.submit(request, request.arrival_s)
            self._next = request = next(self._coming, None)
            self.next_arrival_s = inf if request is None else request.arrival_s
            self.interrupted = True
            self.wake()

    def start(self, plan: Plan, now: float) -> float:
        """Start a plan's copies; returns when its batch can start.

        A direction of the link does one copy after the other; those that the batch waits for come
        before the plan's others, and behind what was started earlier.
        """
        if plan.joined:
            self.oracle.watch(plan.joined)
        if self._uneven is not None:
            self._longest_tokens = 0 if plan.padded is not None else plan.longest_tokens
        ready_s = now
        for job in plan.requantised:
            ready_s += self.cost.requantise_s(job.nbytes, job.to_bits)
        if plan.before_step or plan.background:
            ready_s, background = self._queues.book(plan, now, ready_s)
            for transfer, copy in zip(plan.background, background, strict=True):
                self._await_landing(transfer, copy)
        return ready_s

    def run(self, plan: Plan, now: float, limit: int) -> Wait:
        """A plan's steps until `limit` of them are done, a finish, an interruption or `until`."""
        ends: list[float] = []
        start_s = now
        if not (plan.decodes or plan.chunks):
            yield self.env.at(now)
            self.take_arrivals(now)
            return Outcome(now)
        done = plan.done_steps
        if limit > 1 and plan.decodes:
            to_finish = max(1, self.oracle.next_finish() - plan.first_step)
            limit = min(limit, to_finish) if to_finish > done else limit
        while True:
            if limit - done == 1:
                now += self._step_s(plan, done)
                ends.append(now)
            else:
                now = self._jump(plan, now, ends, limit)
            if self.next_arrival_s <= now:
                self.take_arrivals(now)
            if not self.env.skip_to(now):
                yield self.env.at(now)
            done = plan.done_steps + len(ends)
            if done >= limit or self.interrupted or now >= plan.until:
                break
        self._book(plan, start_s, ends)
        return Outcome(now, ends, self._finished(plan, done), True)

    # -- inside ---------------------------------------------------------------------------------

    def _step_s(self, plan: Plan, done: int) -> float:
        """Seconds of the plan's step that comes after `done` of them, host time included."""
        cost, decodes = self.cost, plan.decodes
        context = plan.context_tokens
        chunks: Items[PrefillWork] = plan.chunks
        if plan.padded is not None:
            chunks, decodes, context = plan.work_at(done)
        elif done:
            context += done * decodes
            chunks = plan.chunks_at(done)
        device_s = cost.step_s(chunks, decodes, context) + self._between_s
        if self._longest_tokens:
            device_s += self._uneven_line(plan, done).first_s
        # Host time comes before each step, or is hidden behind the device with lag 1.
        host_s = cost.host_s(decodes + len(chunks))
        taken_s = max(host_s, device_s) if self.hides_host else host_s + device_s
        return self.slowdown * taken_s

    def _jump(self, plan: Plan, now: float, ends: list[float], limit: int) -> float:
        """Append step ends until the first one that is not before the next event."""
        cost, hidden, padded, slowdown = self.cost, self.hides_host, plan.padded, self.slowdown
        done = plan.done_steps + len(ends)
        decodes = plan.decodes if padded is None else padded.decodes
        context = plan.context_tokens if padded is None else padded.context_tokens
        chunks: Items[PrefillWork] = plan.chunks
        host_s = cost.host_s(decodes + len(chunks))
        horizon = min(min(self.env.next_event_s(), plan.until), self.next_arrival_s)  # noqa: PLW3301
        while done < limit:
            if chunks:
                chunks = plan.chunks_at(done)
            line = cost.slice_line(chunks, decodes, context + done * decodes)
            device_s, growth_s = line.first_s + self._between_s, line.growth_s
            count = min(line.steps, limit - done)
            if self._longest_tokens:
                more = self._uneven_line(plan, done)
                device_s, growth_s = device_s + more.first_s, growth_s + more.growth_s
                count = min(count, more.steps)
            for _ in range(int(count)):
                if not hidden:
                    now += slowdown * (host_s + device_s)
                else:
                    now += slowdown * (device_s if device_s > host_s else host_s)
                ends.append(now)
                if now >= horizon:
                    return now
                device_s += growth_s
            done = plan.done_steps + len(ends)
        return now

    def _uneven_line(self, plan: Plan, done: int) -> SliceLine:
        """What unequal contexts add from the plan's step on that comes after `done` of them."""
        cost, decodes = self._uneven, plan.decodes
        assert cost is not None
        tokens = plan.context_tokens + plan.light_tokens + done * decodes
        return cost.uneven_line(decodes, tokens, self._longest_tokens + done)

    def _book(self, plan: Plan, start_s: float, ends: list[float]) -> None:
        done, decodes = plan.done_steps, plan.decodes
        chunks: Items[PrefillWork] = plan.chunks_at(done) if plan.chunks else ()
        context = plan.context_tokens + done * decodes
        if plan.padded is not None:
            chunks, decodes, context = plan.work_at(done)
        self.coverage.book(chunks, decodes, context, start_s, ends)

    def _finished(self, plan: Plan, steps: int) -> list[Sequence]:
        """Who has all tokens after so many steps of a plan."""
        oracle, last_step = self.oracle, plan.first_step + steps
        due = plan.decodes and oracle.soonest <= last_step
        finished = oracle.finished_by(last_step) if due else []
        for seq, _, _, last in plan.chunks:
            if last and oracle.finishes(seq, plan.advanced):
                finished.append(seq)
        return finished

    def _await_landing(self, transfer: Transfer, copy: Copy) -> None:
        """Tell when a background copy has landed; asked again then, as others may delay it."""
        end_s = self._queues.end_s(copy)
        self.env.call_at(end_s, URGENT, lambda: self._landed(transfer, copy))

    def _landed(self, transfer: Transfer, copy: Copy) -> None:
        end_s = self._queues.end_s(copy)
        if end_s > self.env.now:
            self._await_landing(transfer, copy)
            return
        self.engine.transferred(transfer, end_s)
        self.interrupted = True
        self.wake()
