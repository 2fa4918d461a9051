"""Random decisions on a real engine, its blocks in memory: nothing leaks, no block has two owners,
and no token changes, however late and in whichever order copies complete.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from placed_machine import Placed
from tiered import ShrinkingLru


@pytest.mark.parametrize("lag", [0, 1])
def test_a_chunk_may_end_inside_a_cached_block_of_fewer_bits(lag: int) -> None:
    """The second request finds the prompt of the first, which has lost bits since, and is charged
    for it: chunks of six tokens end within blocks of four, and run one row for nothing.
    """
    machine, memory = Placed(), ShrinkingLru(shrink_8_at=0.1, shrink_4_at=0.2, tail_tokens=0)
    machine.begin(lag, True, 2, 40, memory, [(38, 1, 4)], 0)
    for _ in range(8):
        machine.decide([], 20, 1, 0)
    machine.submit(38, 1, 4)
    for _ in range(8):
        machine.decide([], 6, 1, 0)
    machine.teardown()
    assert machine.device.within_small > 0


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
