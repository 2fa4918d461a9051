"""The one loop on a real clock: plan, run, complete.

It is the loop of the simulator's driver, step boundary by step boundary; what differs is that the
device is real, so that with lag 1 the last step of a plan is launched before the next plan is made,
and waited for after that.
"""

from __future__ import annotations

from math import inf

from executor.backend import TorchBackend
from superinfer.errors import stuck_error
from superinfer.plan import Plan


class Driver:
    """Drives one engine with one device."""

    def __init__(self, backend: TorchBackend) -> None:
        self.backend = backend
        self.engine = backend.engine
        self.now = 0.0
        """The latest step boundary."""
        self.stopped = False

    def stop(self) -> None:
        """End at the next step boundary; from a signal handler or another thread, too."""
        self.stopped = self.backend.stopping = True

    def run(self) -> None:
        """Until nothing is left or it is stopped; then what is under way stays unfinished.

        Raises StuckError if requests are left for ever.
        """
        self.backend.catch_up(self.now)
        (self._loop_ahead if self.engine.config.lag else self._loop)()
        self.backend.drain()
        if self.stopped:
            self.engine.close(self.now)
        elif self.engine.live:
            raise stuck_error([seq.request.request_id for seq in self.engine.live])

    # -- inside ---------------------------------------------------------------------------------

    def _loop(self) -> None:
        """Plan, run, complete."""
        engine, backend = self.engine, self.backend
        while not self.stopped:
            plan = self._plan()
            if plan is None:
                if not self._wait():
                    return
                continue
            outcome = backend.run(plan, backend.start(plan, self.now), plan.steps)
            engine.complete(plan, outcome)
            self.now = outcome.end_s

    def _loop_ahead(self) -> None:
        """The same with each plan made while the last step of the one before is running."""
        engine, backend = self.engine, self.backend
        plan = None
        while not self.stopped:
            if plan is None:
                plan = self._plan()
                if plan is None:
                    if not self._wait():
                        return
                    continue
            else:
                engine.begin(plan)
            self.now = backend.start(plan, self.now)
            if plan.steps > 1 and not backend.interrupted and self.now < plan.until:
                # The last step is on the device already when the reason to stop becomes known.
                head = backend.run(plan, self.now, plan.steps - 1, ahead=True)
                head.last = False
                engine.complete(plan, head)
                self.now = head.end_s
            backend.launch_last(plan)
            following = self._plan()
            tail = backend.run(plan, self.now, plan.done_steps + 1)
            engine.complete(plan, tail)
            self.now = tail.end_s
            backend.interrupted = backend.interrupted or bool(tail.finished)
            plan = following

    def _plan(self) -> Plan | None:
        """Ask for the next plan; whatever happened until now is known to it."""
        self.backend.interrupted = False
        plan = self.engine.plan(self.now)
        self.backend.take(plan)
        return plan

    def _wait(self) -> bool:
        """Sleep until something happens; False if nothing ever will."""
        now = self.backend.wait(self.now)
        if now == inf:
            return False
        self.now = now
        return True
