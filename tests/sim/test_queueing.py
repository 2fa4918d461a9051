"""Queueing truth: one server fed by Poisson arrivals waits as the textbook says.

One request at a time, one token each, and a service time that is the prompt's length times a
constant. Mean wait in the queue, with service time S and load rho: `rho E[S] / (2 (1 - rho))` for
fixed S (M/D/1) and `rho E[S] / (1 - rho)` for exponential S (M/M/1).
"""

from __future__ import annotations

from itertools import accumulate
from random import Random

import numpy as np
import pytest
from harness import FakeCost, make_engine, request

from sim.driver import simulate
from sim.oracle import Oracle
from superinfer.records.run import Floats
from superinfer.request import Request
from superinfer.schedulers.vllm import VllmScheduler

MEAN_TOKENS = 1 << 20
"""So many that whole tokens are as good as real numbers."""
SERVICE_S = 1.0
BATCHES = 60
T_QUANTILE = 3.463
"""Student's t, 59 degrees of freedom, two-sided 99.9 %."""


def poisson(count: int, rho: float, exponential: bool, seed: int) -> list[Request]:
    """Requests whose prompts take `SERVICE_S` on average."""
    rng = Random(seed)
    times = accumulate(rng.expovariate(rho / SERVICE_S) for _ in range(count))
    return [
        request(index, _tokens(rng) if exponential else MEAN_TOKENS, 0, now)
        for index, now in enumerate(times)
    ]


def _tokens(rng: Random) -> int:
    return max(1, round(rng.expovariate(1 / MEAN_TOKENS)))


def waits(requests: list[Request]) -> Floats:
    """Seconds between arrival and start of service, from a simulation."""
    scheduler = VllmScheduler(
        chunked=False, max_num_seqs=1, max_num_batched_tokens=1 << 40, watermark=0.0
    )
    cost = FakeCost(step=0.0, per_chunk_token=SERVICE_S / MEAN_TOKENS)
    engine = make_engine(scheduler, 1 << 30, cost=cost, block_tokens=1 << 10)
    simulate(engine, requests, Oracle([1] * len(requests)))
    table = engine.recorder.build(engine).table
    assert set(table.state) == {"finished"}
    return table.first_scheduled_s - [req.arrival_s for req in requests]


def lindley(requests: list[Request]) -> Floats:
    """The same by recursion: a wait is what is left of the one before when the next arrives."""
    wait, before, found = 0.0, requests[0], []
    for req in requests:
        service = before.prompt_tokens * SERVICE_S / MEAN_TOKENS
        wait = max(0.0, wait + service - (req.arrival_s - before.arrival_s)) if found else 0.0
        before = req
        found.append(wait)
    return np.array(found)


@pytest.mark.parametrize(
    ("exponential", "rho", "count"),
    [(False, 0.5, 40_000), (True, 0.5, 80_000), (False, 0.8, 160_000), (True, 0.8, 300_000)],
    ids=["MD1-0.5", "MM1-0.5", "MD1-0.8", "MM1-0.8"],
)
def test_mean_wait(exponential: bool, rho: float, count: int) -> None:
    requests = poisson(count, rho, exponential, seed=7)
    waited = waits(requests)
    expected = rho * SERVICE_S / (1 - rho) * (1.0 if exponential else 0.5)
    # Batches are thousands of services long, against a memory of about a hundred at this load.
    means = waited[count // 20 :][: BATCHES * (count // 64)].reshape(BATCHES, -1).mean(axis=1)
    half_width = T_QUANTILE * means.std(ddof=1) / BATCHES**0.5
    assert half_width < 0.08 * expected
    assert abs(means.mean() - expected) < half_width
    assert np.allclose(waited, lindley(requests), rtol=0.0, atol=1e-6)
