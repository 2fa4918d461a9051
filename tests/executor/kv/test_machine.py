"""Random decisions on a real engine, its blocks in memory: nothing leaks, no block has two owners,
and no token changes, however late and in whichever order copies complete.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from placed_machine import Placed

FEW = settings(
    max_examples=10,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def test_places_survive_whatever_happens() -> None:
    run_state_machine_as_test(Placed, settings=FEW)


@pytest.mark.slow
def test_places_survive_whatever_happens_for_long() -> None:
    many = settings(FEW, max_examples=100, stateful_step_count=80)
    run_state_machine_as_test(Placed, settings=many)
