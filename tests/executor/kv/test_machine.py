"""Random decisions on a real engine, its blocks in memory: nothing leaks, no block has two owners,
and no token changes, however late and in whichever order copies complete.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from placed_machine import Placed
from tiered import ShrinkingLru

from superinfer.memory.base import Timing


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


def test_who_leaves_within_its_cached_prefix_takes_along_the_bits_of_what_it_computed() -> None:
    """The last request shares blocks of 16, 8 and 8 bits and has walked over the first one only."""
    machine, memory = Placed(), ShrinkingLru(shrink_8_at=0.3, shrink_4_at=0.6, tail_tokens=0)
    requests = [*[(1, 0, 16)] * 5, (5, 0, 16), (13, 1, 8), (17, 1, 8)]
    machine.begin(0, True, 1, 12, memory, requests, 0)
    for plans in (2, 0):
        for _ in range(3):
            machine.cancel(0)
        machine.go_on(1, plans)
    machine.decide([("admit", 0, "before_step")], 1, 1, 0)
    machine.cancel(0)
    machine.decide([], 1, 1, 0)
    (seq,) = machine.engine.live
    assert machine.engine.holdings.small_blocks(seq) == (2, 0)
    machine.decide([("swap_out", 0, "before_step")], 1, 1, 0)
    assert (seq.host_blocks, seq.host_small) == (1, (0, 0))
    machine.teardown()


def test_who_comes_back_computes_the_rest_of_a_cached_prefix_that_it_left_behind() -> None:
    """It left with two of the twelve tokens that it had found, which are gone when it is back."""
    machine, memory = Placed(), ShrinkingLru(shrink_8_at=1.1, shrink_4_at=1.1, tail_tokens=0)
    machine.begin(0, True, 1, 12, memory, [(13, 1, 16)], 0)
    machine.decide([], 20, 1, 0)
    machine.submit(17, 1, 16)
    machine.decide([], 2, 1, 0)
    machine.cancel(0)
    (seq,) = machine.engine.live
    assert (seq.computed_tokens, seq.prefix_tokens) == (2, 12)
    machine.decide([("swap_out", 0, "before_step")], 1, 1, 0)
    machine.submit(40, 0, 16)  # takes all of the cache
    machine.decide([], 40, 1, 0)
    machine.cancel(1)
    machine.decide([("swap_in", 0, "before_step")], 8, 1, 0)
    assert seq.computed_tokens == 10
    machine.decide([], 8, 1, 0)
    machine.teardown()


def test_the_next_turn_finds_what_was_said() -> None:
    """The last token of a text is not in the cache."""
    machine, memory = Placed(), ShrinkingLru(shrink_8_at=1.1, shrink_4_at=1.1, tail_tokens=0)
    machine.begin(1, True, 1, 20, memory, [(10, 1, 16)], 0, says=True)
    machine.decide([], 20, 1, 0)
    for _ in range(10):
        machine.decide([], 20, 1, 0)
    machine.finish(0)
    machine.decide([], 20, 1, 0)
    machine.decide([], 20, 1, 0)
    (text,) = machine.device.contents.texts
    tokens = len(text) * machine.hash_tokens
    assert tokens >= 20
    machine.go_on_from_a_text(0, 9, 16)
    machine.decide([], 20, 1, 0)
    (seq,) = machine.engine.live
    assert seq.cached_tokens == tokens // 4 * 4
    machine.teardown()


@pytest.mark.parametrize("timing", ["before_step", "background"])
def test_who_ends_while_it_is_sent_to_the_host_leaves_no_text(timing: Timing) -> None:
    """With lag 1 the plan that sends it there is made before it is known to have ended."""
    machine, memory = Placed(), ShrinkingLru(shrink_8_at=1.1, shrink_4_at=1.1, tail_tokens=0)
    machine.begin(1, True, 1, 20, memory, [(10, 1, 16)], 0, says=True)
    for _ in range(8):
        machine.decide([], 20, 1, 0)
    machine.finish(0)
    machine.decide([("swap_out", 0, timing)], 20, 1, 0)
    assert not machine.engine.live
    machine.go_on(60, 2)
    machine.submit(10, 1, 16)
    machine.decide([], 20, 1, 0)
    machine.teardown()


def test_copies_that_give_way_to_a_rotation_before_they_have_landed_leave_their_places() -> None:
    """Of the 12 blocks of the host eight are for copies that are under way when one of the two that
    run is copied out: its five need more than the other four.
    """
    machine, memory = Placed(), ShrinkingLru(shrink_8_at=1.1, shrink_4_at=1.1, tail_tokens=0)
    machine.begin(0, False, 1, 12, memory, [(18, 1, 16), (18, 2, 16)], 0)
    machine.decide([], 20, 1, 0)
    machine.decide([], 20, 1, 12)
    assert machine.engine.host.mirrored == 8
    machine.decide([("swap_out", 1, "before_step")], 20, 1, 0)
    assert (machine.engine.host.mirrored, machine.engine.host.used) == (0, 5)
    machine.counts_agree()
    machine.teardown()


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
