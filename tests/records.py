"""Run records by hand: small ones token by token, and a large one from random lengths."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from superinfer.records.run import Floats, Ints, RequestTable, RunRecord, Timeline, TokenTimes
from superinfer.request import DEFAULT_CLASS, SLO, Request, SLOClass


@dataclass
class Job:
    """One request by hand: its runs as (first step, stop step, previous token) and its gaps."""

    arrival_s: float = 0.0
    prompt: int = 10
    output: int = 1
    first_token_s: float = math.nan
    finish_s: float = math.nan
    runs: list[tuple[int, int, float]] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    slo: SLO = DEFAULT_CLASS.slo
    group: str = "chat"
    tenant: str = "default"
    state: str = "finished"
    cached: int = 0
    scheduled_s: float = math.nan
    recomputed: int = 0
    preemptions: int = 0
    kv_bits: float = 16.0
    kv_8_share: float = 0.0
    kv_4_share: float = 0.0


def ints(values: list[int]) -> Ints:
    return np.array(values, np.int64)


def floats(values: list[float]) -> Floats:
    return np.array(values, np.float64)


def build(jobs: list[Job], decode_end_s: list[float], **changes: Any) -> RunRecord:
    requests = [
        Request(
            request_id=f"r{i}",
            arrival_s=job.arrival_s,
            prompt_tokens=job.prompt,
            max_tokens=64,
            slo=job.slo,
            slo_class=SLOClass(job.group, job.slo),
            tenant=job.tenant,
            index=i,
        )
        for i, job in enumerate(jobs)
    ]
    zero = ints([0] * len(jobs))
    table = RequestTable(
        requests=requests,
        state=[job.state for job in jobs],
        reject_reason=["too long" if job.state == "rejected" else None for job in jobs],
        first_scheduled_s=floats([job.scheduled_s for job in jobs]),
        first_token_s=floats([job.first_token_s for job in jobs]),
        finish_s=floats([job.finish_s for job in jobs]),
        output_tokens=ints([job.output for job in jobs]),
        cached_tokens=ints([job.cached for job in jobs]),
        recomputed_tokens=ints([job.recomputed for job in jobs]),
        preemptions=ints([job.preemptions for job in jobs]),
        rotations=zero,
        h2d_bytes=zero,
        d2h_bytes=zero,
        kv_bits=floats([job.kv_bits for job in jobs]),
        kv_8_share=floats([job.kv_8_share for job in jobs]),
        kv_4_share=floats([job.kv_4_share for job in jobs]),
        computed_tokens=ints([_computed(job) for job in jobs]),
    )
    runs = [(row, *run) for row, job in enumerate(jobs) for run in job.runs]
    gaps = [(row, gap) for row, job in enumerate(jobs) for gap in job.gaps]
    tokens = TokenTimes(
        decode_end_s=floats(decode_end_s),
        run_row=ints([run[0] for run in runs]),
        run_first=ints([run[1] for run in runs]),
        run_stop=ints([run[2] for run in runs]),
        run_previous_s=floats([run[3] for run in runs]),
        gap_row=ints([gap[0] for gap in gaps]),
        gap_s=floats([gap[1] for gap in gaps]),
    )
    timeline = changes.pop("timeline", None) or wave(0)
    sizes: dict[str, Any] = {
        "total_blocks": 100,
        "block_tokens": 16,
        "block_bytes": 1000,
        "peak_referenced_blocks": 7,
        "peak_used_blocks": 9,
        "computed_tokens": 0,
        "prefix_query_tokens": 0,
        "prefix_hit_tokens": 0,
    }
    return RunRecord(table, tokens, timeline, **(sizes | changes))


def _computed(job: Job) -> int:
    """Its prompt, what was computed again, and its decode steps; nothing for who got no token."""
    if math.isnan(job.first_token_s):
        return 0
    return job.prompt - job.cached + job.recomputed + sum(run[1] - run[0] for run in job.runs)


def wave(samples: int) -> Timeline:
    """A replica whose load swings: queue, memory by use, and copies while the load is high."""
    t = np.linspace(0, 60, samples)
    load = (1 + np.sin(t / 6)) / 2
    blocks = [(load * scale).astype(np.int64) for scale in (30, 8, 80, 15, 40)]
    rotations = np.cumsum(load > 0.8)
    moved = (rotations, rotations * (7 << 20), rotations * (8 << 20))
    return Timeline(t, *blocks, *moved)


CLASSES = (
    SLOClass("chat", SLO(ttft_s=1.0, tpot_s=0.025)),
    SLOClass("batch", SLO(e2el_s=60.0)),
    SLOClass("code", SLO(ttft_s=0.5, tpot_s=0.02)),
)


def large_record(
    requests: int, steps: int, mean_tokens: int, tenants: int = 4, preempted: float = 0.1
) -> RunRecord:
    """Requests that decode over `steps` steps, a share of them preempted once half-way."""
    random = np.random.default_rng(0)
    end = np.cumsum(random.gamma(4, 0.005, steps))
    length = random.integers(4, 2 * mean_tokens, requests)
    first = np.sort(random.integers(0, steps - 5 * mean_tokens, requests))
    cut = np.flatnonzero(random.random(requests) < preempted)
    half = length.copy()
    half[cut] //= 2
    stop = first + half
    back = stop[cut] + 50
    first_token, again = end[first] - 0.01, end[back] - 0.005
    finish = end[stop - 1]
    finish[cut] = end[back + length[cut] - half[cut] - 1]
    arrival = (
        first_token - random.gamma(2, (0.1, 2.0, 0.2), (requests // 3 + 1, 3)).ravel()[:requests]
    )
    jobs = [
        Request(f"r{i}", at, 500, 512, group.slo, group, tenant=f"t{i % tenants}", index=i)
        for i, at in enumerate(arrival.tolist())
        for group in (CLASSES[i % 3],)
    ]
    zero, one = np.zeros(requests, np.int64), np.zeros(requests, np.int64)
    one[cut] = 1
    table = RequestTable(
        jobs, ["finished"] * requests, [None] * requests, first_token - 0.005, first_token, finish,
        length + 1 + one, zero, one * 500, one, zero, zero, zero, np.full(requests, 16.0),
        np.zeros(requests), np.zeros(requests), 500 + one * 500 + length,
    )  # fmt: skip
    rows = np.arange(requests)
    tokens = TokenTimes(
        decode_end_s=end,
        run_row=np.concatenate((rows, cut)),
        run_first=np.concatenate((first, back)),
        run_stop=np.concatenate((stop, back + length[cut] - half[cut])),
        run_previous_s=np.concatenate((first_token, again)),
        gap_row=cut,
        gap_s=again - end[stop[cut] - 1],
    )
    return RunRecord(
        table, tokens, wave(2000), 100, 16, 1 << 26, 90, 95, 500 * requests, 500 * requests, 0,
        steps=steps,
    )  # fmt: skip
