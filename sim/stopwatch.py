"""How long the scheduler takes to decide."""

from __future__ import annotations

import time

from superinfer.draft import Draft
from superinfer.engine.engine import Ask


class Stopwatch:
    """Adds up what the calls of a function take."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, ask: Ask) -> Ask:
        """`ask`, timed."""
        clock = time.perf_counter

        def timed(draft: Draft, now: float) -> None:
            started = clock()
            ask(draft, now)
            self.seconds += clock() - started

        return timed
