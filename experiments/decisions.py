"""How long a scheduler takes to decide: the time of `plan` with so many requests live.

A closed loop keeps the number of live requests constant; every second request has targets. Prompts
have 512 tokens and answers 192, on Llama-3.1-8B and one A100-80G. Only decisions with all requests
live count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from sim.driver import simulate
from sim.load import LoadModel
from sim.oracle import Oracle
from sim.run import build_engine
from superinfer.collection import no_collection
from superinfer.draft import Draft
from superinfer.lab.config import load_config
from superinfer.request import SLO, Request

LIVE = (256, 1000)
REQUESTS = 6000
"""Of one run."""
SCHEDULERS = ("vllm", "rotating")
REFERENCE_TIMEOUTS_PER_S = 800_000
PROMPT_TOKENS, OUTPUT_TOKENS = 512, 192
TARGETS = SLO(ttft_s=2.0, tpot_s=0.1)


@dataclass(slots=True)
class DecisionTime:
    """Microseconds of one scheduler's decisions at one number of live requests."""

    scheduler: str
    live: int
    decisions: int
    mean_us: float
    p99_us: float
    scaled_mean_us: float
    simpy_timeouts_per_s: float

    def line(self) -> str:
        """The figures for a person."""
        return (
            f"decision, {self.scheduler}, {self.live:,} live: mean {self.mean_us:.0f} us "
            f"(scaled {self.scaled_mean_us:.0f} us), p99 {self.p99_us:.0f} us "
            f"of {self.decisions:,} decisions"
        )


def decision_times(yardstick: Callable[[], float]) -> Iterator[DecisionTime]:
    """Every scheduler at every number of live requests; `yardstick` gives SimPy timeouts/CPU s."""
    for scheduler in SCHEDULERS:
        for live in LIVE:
            before = yardstick()
            seconds = decision_seconds(scheduler, live)
            timeouts_per_s = max(before, yardstick())
            mean_us = 1e6 * float(seconds.mean())
            yield DecisionTime(
                scheduler=scheduler,
                live=live,
                decisions=seconds.size,
                mean_us=mean_us,
                p99_us=1e6 * float(np.quantile(seconds, 0.99)),
                scaled_mean_us=mean_us * timeouts_per_s / REFERENCE_TIMEOUTS_PER_S,
                simpy_timeouts_per_s=timeouts_per_s,
            )


def decision_seconds(scheduler: str, live: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """How long each call of `plan` took while exactly `live` requests were live."""
    engine, _ = build_engine(load_config(None, (), None, scheduler=scheduler))
    ask, seconds = engine.scheduler.plan, []

    def timed(draft: Draft, now: float) -> None:
        started = time.perf_counter()
        ask(draft, now)
        if len(engine.live) == live:
            seconds.append(time.perf_counter() - started)

    engine.ask = timed
    workload = [
        Request(str(i), 0.0, PROMPT_TOKENS, 1024, SLO() if i % 2 else TARGETS, index=i)
        for i in range(REQUESTS)
    ]
    with no_collection():
        simulate(engine, workload, Oracle([OUTPUT_TOKENS] * REQUESTS), LoadModel(concurrency=live))
    return np.array(seconds)
