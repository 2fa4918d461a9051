"""`priority`: worked schedules (blocks of four tokens, no watermark)."""

from __future__ import annotations

from typing import Any

from harness import FakeCost, iterations, make_engine, request

from superinfer.request import SLO
from superinfer.schedulers.pacing import GRAIN_TOKENS
from superinfer.schedulers.priority import PriorityScheduler

TIGHT = {"slo": SLO(ttft_s=1.0)}


def priority(**settings: Any) -> PriorityScheduler:
    settings.setdefault("watermark", 0.0)
    settings.setdefault("max_num_seqs", 4)
    settings.setdefault("max_num_batched_tokens", 8)
    return PriorityScheduler(**settings)


def test_the_tighter_class_goes_first() -> None:
    """B comes later but has a TTFT target; A's remaining prompt waits for it."""
    lines = iterations(
        priority(), {"A": (20, 1), "B": (6, 1)}, {"B": 2}, blocks=16, requests={"B": TIGHT}
    )
    assert lines == ["A8 used 5", "B6 A2 used 7", "A8 used 5", "A2 used 5"]


def test_declared_priority_beats_the_class() -> None:
    """Lower runs first, as in vLLM."""
    requests = {"A": {"priority": -1}, "B": TIGHT}
    lines = iterations(priority(), {"A": (8, 1), "B": (8, 1)}, requests=requests)
    assert lines == ["A8 used 2", "B8 used 2"]


def test_a_lower_class_makes_room() -> None:
    """B needs two blocks, one is free: A, of a lower class, drops its three and starts again."""
    lines = iterations(
        priority(max_num_batched_tokens=16),
        {"A": (9, 3), "B": (8, 1)},
        {"B": 2},
        blocks=4,
        requests={"B": TIGHT},
    )
    assert lines == ["A9 used 3", "B8 -A used 2", "A10 used 3", "A used 3"]


def test_an_equal_class_is_left_alone() -> None:
    lines = iterations(
        priority(max_num_batched_tokens=16), {"A": (9, 3), "B": (8, 1)}, {"B": 2}, blocks=4
    )
    assert lines == ["A9 used 3", "A used 3", "A used 3", "B8 used 2"]


def test_no_preemption_that_would_not_help() -> None:
    """B needs four blocks and A's three would not be enough beside C's: nobody is disturbed."""
    requests = {"B": TIGHT, "C": {"slo": SLO(ttft_s=0.5)}}
    lines = iterations(
        priority(max_num_batched_tokens=32),
        {"A": (9, 2), "C": (9, 2), "B": (18, 1)},
        {"B": 2},
        blocks=6,
        requests=requests,
    )
    assert lines[1] == "AC used 6"


def test_room_is_made_for_the_watermark_too() -> None:
    """B needs six of eight blocks, and two stay free: the five that are free and A's three are just
    enough.
    """
    lines = iterations(
        priority(max_num_batched_tokens=32, watermark=0.25),
        {"A": (9, 3), "B": (24, 1)},
        {"B": 2},
        requests={"B": TIGHT},
    )
    assert lines == ["A9 used 3", "B24 -A used 6", "A10 used 3", "A used 3"]


def test_chunks_keep_the_pace_of_running_streams() -> None:
    """A step costs 1/1024 s per chunk token and 1/64 s flat. With a TPOT target of 0.25 s,
    95 % of it allows 227 tokens, three grains of 64.
    """
    cost = FakeCost(step=2**-6, per_chunk_token=2**-10)
    scheduler = priority(max_num_batched_tokens=4096)
    engine = make_engine(scheduler, 2000, cost=cost)
    engine.submit(request(0, 4, 0, slo=SLO(tpot_s=0.25)), 0.0)
    first = engine.plan(0.0)
    assert first is not None and [chunk.tokens for chunk in first.chunks] == [4]
    _finish_step(engine, first)
    engine.submit(request(1, 2000, 0), 0.0)
    second = engine.plan(1.0)
    assert second is not None and second.decodes == 1
    assert [chunk.tokens for chunk in second.chunks] == [3 * GRAIN_TOKENS]


def test_without_targets_the_whole_budget_is_used() -> None:
    cost = FakeCost(step=2**-6, per_chunk_token=2**-10)
    engine = make_engine(priority(max_num_batched_tokens=1024), 2000, cost=cost)
    engine.submit(request(0, 2000, 0), 0.0)
    plan = engine.plan(0.0)
    assert plan is not None and [chunk.tokens for chunk in plan.chunks] == [1024]


def test_a_cap_of_the_step_bounds_chunks_where_nobody_has_a_pace() -> None:
    """A step costs 1/1024 s per chunk token and 1/64 s flat: 250 ms leave room for 240 tokens."""
    cost = FakeCost(step=2**-6, per_chunk_token=2**-10)
    scheduler = priority(max_num_batched_tokens=1024, step_cap_ms=250.0)
    engine = make_engine(scheduler, 2000, cost=cost)
    engine.submit(request(0, 2000, 0), 0.0)
    plan = engine.plan(0.0)
    assert plan is not None and [chunk.tokens for chunk in plan.chunks] == [3 * GRAIN_TOKENS]


def _finish_step(engine: Any, plan: Any) -> None:
    from superinfer.plan import Outcome

    engine.complete(plan, Outcome(1.0, [1.0]))
