"""Random workloads that are small enough for failing examples to shrink well."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from harness import request
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from superinfer.request import DEFAULT_CLASS, SLO, Request, SLOClass

SETTINGS = settings(
    deadline=None, derandomize=True, max_examples=10, suppress_health_check=list(HealthCheck)
)
HASH_TOKENS = 6


class Job(NamedTuple):
    """One request of a random workload, small enough that failing examples shrink well."""

    gap: float
    prompt: int
    output: int
    group: int
    """Requests of one group share their prompts' beginnings; 0 shares nothing. They also share
    their service class, and with the priority it gives the tenant."""
    priority: int
    tight: bool


def jobs(longest_prompt: int) -> st.SearchStrategy[list[Job]]:
    """A few requests that come close together."""
    job = st.builds(
        Job,
        gap=st.sampled_from((0, 0, 0.25, 1, 3.5, 30)),
        prompt=st.integers(1, longest_prompt),
        output=st.integers(1, 36),
        group=st.integers(0, 3),
        priority=st.integers(0, 1),
        tight=st.booleans(),
    )
    return st.lists(job, min_size=3, max_size=16)


JOBS = jobs(36)
LONG_JOBS = jobs(100)
"""Some prompts take all of a small memory, or more."""


PACE = SLO(ttft_s=4.0, tpot_s=2.0)
CLASSES = (
    SLOClass("strict", PACE),
    SLOClass("whole", SLO(e2el_s=60.0, min_tokens_per_s=0.25), min_kv_bits=4),
    SLOClass("paced", PACE, delivery="paced", weight=2.0, min_kv_bits=8),
    SLOClass("stall", PACE, max_stall_s=8.0, weight=0.5),
)
"""What the tight requests of each group are promised."""
LOOSE = replace(DEFAULT_CLASS, min_kv_bits=4)
"""The class of the others."""


def in_seconds(slo_class: SLOClass, scale_s: float) -> SLOClass:
    """A class whose targets are told in units of `scale_s`."""

    def scaled(target_s: float | None, factor: float = scale_s) -> float | None:
        return None if target_s is None else target_s * factor

    slo = slo_class.slo
    return replace(
        slo_class,
        slo=SLO(
            ttft_s=scaled(slo.ttft_s),
            tpot_s=scaled(slo.tpot_s),
            e2el_s=scaled(slo.e2el_s),
            min_tokens_per_s=scaled(slo.min_tokens_per_s, 1 / scale_s),
        ),
        max_stall_s=scaled(slo_class.max_stall_s),
    )


def prompts(jobs: list[Job], scale_s: float = 1.0) -> list[Request]:
    """The requests of a workload; `scale_s` stretches the time between arrivals."""
    now, requests = 0.0, []
    for index, job in enumerate(jobs):
        now += job.gap * scale_s
        first = 1000 * job.group if job.group else 1000 * (index + 10)
        slo_class = in_seconds(CLASSES[job.group], scale_s) if job.tight else LOOSE
        requests.append(
            request(
                index,
                job.prompt,
                0,
                now,
                slo=slo_class.slo,
                slo_class=slo_class,
                tenant=f"{job.group}{job.priority}",
                priority=job.priority,
                hash_ids=tuple(range(first, first - (-job.prompt // HASH_TOKENS))),
                hash_block_tokens=HASH_TOKENS,
                max_tokens=2 * job.output,
            )
        )
    return requests
