"""A second of host time counts like a second of the device, in runs and in what is predicted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from harness import FakeCost
from hypothesis import given
from property.exact_runs import build
from property.workloads import JOBS, SETTINGS, Job, prompts

from sim.driver import simulate
from sim.oracle import Oracle

# Copies take so little that none is passed over for computing again, which counts the device alone.
ALL_DEVICE = FakeCost(
    step=1.25, per_chunk_token=2**-6, per_context_token=2**-8, copy=2**-4, per_byte=2**-10
)
HALF_HOST = replace(ALL_DEVICE, step=0.75, host=0.5)


def events(arm: str, cost: Any, jobs: list[Job]) -> list[Any]:
    found: list[Any] = []
    engine = build(arm, 0, False, found.append, cost)
    simulate(engine, prompts(jobs), Oracle([job.output for job in jobs]))
    return found


@pytest.mark.parametrize("arm", ["andes", "rotating", "rotating-plain"])
@SETTINGS
@given(jobs=JOBS)
def test_whose_time_it_is_changes_nothing(arm: str, jobs: list[Job]) -> None:
    assert events(arm, HALF_HOST, jobs) == events(arm, ALL_DEVICE, jobs)
