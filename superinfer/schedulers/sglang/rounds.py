"""v0.3.2 looks for prefills between rounds of decode steps.

Source: `forward_step` and `forward_decode_batch` of `managers/tp_worker.py` in September 2024 (the
scheduler moved out of that file after v0.3.2), `global_config.num_continue_decode_steps`. A round
is up to ten decode steps; while clients stream it ends with the step that finishes a request or
that sends tokens (every `stream_interval` steps). After a round no prefill is tried unless a
request has arrived or every step of the round finished somebody: requests that wait for memory wait
for the next arrival, or until nothing runs.
"""

from __future__ import annotations

ROUND_STEPS = 10


class Rounds:
    """Counts decode steps into rounds. All arguments are the decode steps planned so far."""

    __slots__ = ("_end", "_finish_steps", "_interval", "_start", "_stream", "arrived")

    def __init__(self, stream: bool, interval: int) -> None:
        self._stream = stream
        self._interval = interval
        self._start = self._end = 0
        self._finish_steps = 0
        """Steps of this round at whose end a request finished."""
        self.arrived = False
        """True if a request came since prefills were last tried."""

    def finished(self, steps: int) -> None:
        """Somebody finished at the end of the latest step."""
        self._catch_up(steps)
        self._finish_steps += 1
        if self._stream:
            self._end = steps

    def left(self, steps: int) -> int:
        """Steps until the round ends; 0 between two rounds."""
        self._catch_up(steps)
        return self._end - steps

    def may_try(self, steps: int) -> bool:
        """True between rounds if a prefill is to be tried."""
        quiet = self._start < steps and self._finish_steps < steps - self._start
        return self.arrived or not quiet

    def open(self, steps: int) -> None:
        """A new round begins."""
        self._start = steps
        self._finish_steps = 0
        self._end = self._next_end(steps)

    def forget(self, steps: int) -> None:
        """Prefills were tried, or nothing runs: the past no longer counts."""
        self.arrived = False
        self._start = self._end = steps
        self._finish_steps = 0

    def _catch_up(self, steps: int) -> None:
        """Rounds in which nothing could be tried follow one another."""
        while self._end < steps:
            self.open(self._end)

    def _next_end(self, steps: int) -> int:
        end = steps + ROUND_STEPS
        if self._stream:
            end = min(end, steps - steps % self._interval + self._interval)
        return end
