"""Predicted step times, corrected by what steps took."""

from __future__ import annotations

from math import inf, isclose, log
from typing import Any

import pytest
from harness import FakeCost

from superinfer.costs.base import Chunk
from superinfer.costs.learned import GRAIN, MOST_SURPRISE, WARM_UP, WINDOW, LearnedCost
from superinfer.plan import Outcome, Plan, PrefillChunk, Requantise, Transfer

BASE = FakeCost(step=1.0, per_chunk_token=2**-6, per_context_token=2**-8, host=0.25, copy=0.5)
ALONE_S = 1.25 + 8 * 2**-8
"""A step of two decodes with four tokens each, by `BASE` and with the host's time."""
CHUNK = Chunk(64, 0)


def plan(now: float = 0.0, chunk: int = 0, steps: int = 1) -> Plan:
    """Two decodes with eight tokens of context, and a chunk of a prompt."""
    sequence: Any = None
    chunks = [PrefillChunk(sequence, chunk, 0, False)] if chunk else []
    return Plan(now, chunks, 2, 8, steps, inf, [], [], 0, [], [], 0)


def run(cost: LearnedCost, seconds: float, times: int = 1, chunk: int = 0) -> None:
    """So many steps of a kind that took so long, after one another."""
    for _ in range(times):
        now = max(0.0, cost._free_s)
        cost.learn(plan(now, chunk), Outcome(now + seconds, [now + seconds]))


def alone_s(cost: LearnedCost) -> float:
    """What is predicted for the step of `plan()`, host time included."""
    return cost.step_s((), 2, 8) + cost.host_s(2)


def mixed_s(cost: LearnedCost) -> float:
    """The same with a chunk of 64 tokens."""
    return cost.step_s([CHUNK], 2, 8) + cost.host_s(3)


def test_nothing_is_believed_before_enough_was_measured() -> None:
    cost = LearnedCost(BASE)
    run(cost, 2 * ALONE_S, WARM_UP - 1)
    assert alone_s(cost) == ALONE_S and cost.revision == 0
    run(cost, 2 * ALONE_S)
    assert isclose(alone_s(cost), 2 * ALONE_S) and cost.revision == 1


def test_kinds_of_steps_are_corrected_each_by_itself() -> None:
    cost = LearnedCost(BASE)
    run(cost, 1.5 * ALONE_S, WARM_UP)
    assert mixed_s(cost) == mixed_s(LearnedCost(BASE)), "no step with prefill was measured"
    run(cost, 3 * mixed_s(LearnedCost(BASE)), WARM_UP, chunk=64)
    assert isclose(alone_s(cost), 1.5 * ALONE_S)
    assert isclose(mixed_s(cost), 3 * mixed_s(LearnedCost(BASE)))


@pytest.mark.parametrize("factor", [0.05, 0.7, 1.6, 40.0])
def test_device_time_is_never_below_none(factor: float) -> None:
    """Where steps take less than the host alone was to take, the host takes less, too."""
    cost = LearnedCost(BASE)
    run(cost, factor * ALONE_S, WARM_UP)
    assert isclose(alone_s(cost), factor * ALONE_S)
    assert cost.step_s((), 2, 8) > 0 and cost.step_s([CHUNK], 0, 0) > 0
    assert cost.host_s(2) == min(1.0, cost.decodes.factor) * BASE.host


def test_a_step_that_stands_still_hardly_counts() -> None:
    cost = LearnedCost(BASE)
    stalls = WARM_UP // 2
    run(cost, 1000.0, stalls)
    run(cost, 2 * ALONE_S, WARM_UP - stalls)
    assert isclose(alone_s(cost), 2 * ALONE_S), "the median does not see them"
    run(cost, 1000.0)
    run(cost, 2 * ALONE_S)
    assert 2 * ALONE_S <= alone_s(cost) < 2.02 * ALONE_S


def test_a_device_that_becomes_slower_is_followed() -> None:
    cost = LearnedCost(BASE)
    run(cost, ALONE_S, 100)
    assert cost.revision == 0, "it is as predicted"
    run(cost, 2 * ALONE_S, 6 * WINDOW)
    assert isclose(alone_s(cost), 2 * ALONE_S, rel_tol=2 * GRAIN)
    assert cost.revision < 40, "corrections are told in grains"


@pytest.mark.parametrize("seconds", [300.0, 1e-6])
def test_what_was_learned_from_steps_that_were_no_measure_is_forgotten(seconds: float) -> None:
    """Kernels were compiled in all of the first steps, minutes each, or a clock stood still."""
    cost = LearnedCost(BASE)
    run(cost, seconds, WARM_UP)
    assert isclose(alone_s(cost), seconds)
    run(cost, 2 * ALONE_S, WINDOW - 1)
    assert abs(log(alone_s(cost) / seconds)) <= MOST_SURPRISE, "no sooner"
    run(cost, 2 * ALONE_S)
    assert isclose(alone_s(cost), 2 * ALONE_S)


@pytest.mark.parametrize("seconds", [300.0, 1e-6])
def test_a_bad_while_is_not_believed(seconds: float) -> None:
    """A machine that was suspended, or a host so late that ends of steps are read at once."""
    cost = LearnedCost(BASE)
    run(cost, 2 * ALONE_S, WARM_UP)
    for _ in range(5):
        run(cost, seconds, WINDOW - 1)
        run(cost, 2 * ALONE_S, WINDOW)
    most = 5 * MOST_SURPRISE
    assert abs(log(cost.decodes.factor / 2)) <= most, "each counts by its bound alone"


def test_surprises_to_both_sides_begin_nothing_anew() -> None:
    cost = LearnedCost(BASE)
    run(cost, ALONE_S, WARM_UP)
    for _ in range(10 * WARM_UP):
        run(cost, 3 * ALONE_S)
        run(cost, ALONE_S / 3)
    assert cost.decodes.factor == pytest.approx(1.0, abs=0.05)


def test_a_slice_is_one_measurement_of_steps_that_grow() -> None:
    cost = LearnedCost(BASE)
    for number in range(WARM_UP):
        now, ends = 100.0 * number, list[float]()
        for step in range(5):
            ends.append((ends[-1] if ends else now) + 2 * (ALONE_S + 2 * step * 2**-8))
        cost.learn(plan(now, steps=5), Outcome(ends[-1], ends))
    assert cost.decodes.measured == WARM_UP
    assert isclose(cost.decodes.factor, 2.0)


def test_a_slice_goes_on_where_it_was() -> None:
    """With lag 1 the last step of a plan is told of by itself: its context has grown by then."""
    cost = LearnedCost(FakeCost(step=0.0, per_context_token=1.0))
    for number in range(WARM_UP):
        slice_ = plan(100.0 * number, steps=3)
        slice_.done_steps = 2
        cost._free_s = 100.0 * number + 50.0
        end_s = cost._free_s + 12.0  # eight tokens of context, and two more of each in each step
        cost.learn(slice_, Outcome(end_s, [end_s]))
    assert cost.decodes.factor == 1.0 and cost.decodes.measured == WARM_UP
    assert cost.decodes._log == 0.0


def test_a_chunk_of_a_slice_moves_on() -> None:
    cost = LearnedCost(FakeCost(step=1.0, per_chunk_token=1.0))
    for number in range(WARM_UP):
        now = 100.0 * number
        cost.learn(plan(now, chunk=4, steps=2), Outcome(now + 20.0, [now + 10.0, now + 20.0]))
    assert isclose(cost.prefills.factor, 2.0) and not cost.decodes.measured


@pytest.mark.parametrize("waited", ["before_step", "requantised"])
def test_what_waited_for_the_memory_is_not_measured(waited: str) -> None:
    sequence: Any = None
    why: Any = {
        "before_step": [Transfer(sequence, "h2d", 1, 1, 1, "before_step")],
        "requantised": [Requantise(sequence, 16, 8, 1, 1)],
    }
    cost = LearnedCost(BASE)
    for number in range(WARM_UP):
        now = 1000.0 * number
        waiting = plan(now, steps=3)
        setattr(waiting, waited, why[waited])
        cost.learn(waiting, Outcome(now + 500.0, [now + 500.0]))
        assert cost.decodes.measured == number, "the first step alone"
        first_s = now + 900.0
        ends = [first_s, first_s + 2 * (ALONE_S + 2**-7), first_s + 4 * ALONE_S + 6 * 2**-7]
        cost.learn(waiting, Outcome(ends[-1], ends))
    assert isclose(cost.decodes.factor, 2.0), "those behind it are"


def test_times_with_nothing_to_do_are_not_measured() -> None:
    cost = LearnedCost(BASE)
    for number in range(WARM_UP):
        now = 50.0 * number
        cost.learn(plan(now), Outcome(now + ALONE_S, [now + ALONE_S]))
    assert cost.decodes.measured == WARM_UP and cost.decodes.factor == 1.0


def test_a_plan_that_was_made_ahead_begins_when_the_one_before_is_over() -> None:
    cost = LearnedCost(BASE)
    end_s = 0.0
    for _ in range(WARM_UP):
        made_s, end_s = end_s - 0.5, end_s + ALONE_S
        cost.learn(plan(made_s), Outcome(end_s, [end_s]))
    assert cost.decodes._log == pytest.approx(0.0, abs=0.05)


def test_copies_alone_are_no_step() -> None:
    cost = LearnedCost(BASE)
    for number in range(WARM_UP):
        now = 10.0 * number
        copies = plan(now)
        copies.decodes = 0
        cost.learn(copies, Outcome(now + 5.0))
        made_ahead = plan(now)
        cost.learn(made_ahead, Outcome(now + 5.0 + ALONE_S, [now + 5.0 + ALONE_S]))
    assert cost.decodes.measured == WARM_UP and cost.decodes.factor == 1.0


def test_steps_of_no_time_teach_nothing() -> None:
    cost = LearnedCost(BASE)
    run(cost, 0.0, WARM_UP)
    nothing = LearnedCost(FakeCost(step=0.0))
    run(nothing, 1.0, WARM_UP)
    assert not cost.decodes.measured and not nothing.decodes.measured


@pytest.mark.parametrize("chunks", [(), (CHUNK,)])
def test_a_line_begins_with_its_step(chunks: tuple[Chunk, ...]) -> None:
    cost = LearnedCost(BASE)
    run(cost, 1.5 * ALONE_S, WARM_UP)
    run(cost, 3 * mixed_s(LearnedCost(BASE)), WARM_UP, chunk=64)
    line = cost.slice_line(chunks, 2, 8)
    assert isclose(line.first_s, cost.step_s(chunks, 2, 8))
    if not chunks:
        assert isclose(line.first_s + line.growth_s, cost.step_s((), 2, 10))


def test_all_else_is_as_before() -> None:
    cost = LearnedCost(BASE)
    run(cost, 2 * ALONE_S, WARM_UP)
    assert cost.transfer_s(64, 2, "h2d", company=True) == BASE.transfer_s(
        64, 2, "h2d", company=True
    )
    assert cost.requantise_s(64, 8) == BASE.requantise_s(64, 8)
    assert cost.attention_share(8, 0.5) == BASE.attention_share(8, 0.5)
    assert cost.kv_bytes_per_token == BASE.kv_bytes_per_token
    assert (cost.limits, cost.duplex_slows) == (BASE.limits, BASE.duplex_slows)
    assert LearnedCost(FakeCost(step=0.0)).step_s((), 0, 0) == 0.0
