"""`fcfs`: worked schedules (blocks of four tokens, no watermark)."""

from __future__ import annotations

from typing import Any

import pytest
from harness import FakeCost, iterations, make_engine, request

from superinfer.errors import ConfigError
from superinfer.memory.lru import LruMemory
from superinfer.schedulers.fcfs import FcfsScheduler


def fcfs(**settings: Any) -> FcfsScheduler:
    settings.setdefault("watermark", 0.0)
    settings.setdefault("max_num_seqs", 4)
    settings.setdefault("max_num_batched_tokens", 8)
    return FcfsScheduler(**settings)


def test_chunks_fill_what_the_decodes_leave() -> None:
    """A decodes in every step while B's prompt of 14 goes through in chunks of 7."""
    assert iterations(fcfs(), {"A": (4, 5), "B": (14, 3)}, {"B": 2}) == [
        "A4 used 1",
        "B7 A used 6",
        "B7 A used 6",
        "AB used 6",
        "AB used 6",
    ]


def test_a_chunk_may_share_the_step_with_the_next_prompt() -> None:
    """Budget 8: A takes 5, B's first 3; then B's other 6 and C's first token beside A's decode."""
    jobs = {"A": (5, 2), "B": (9, 1), "C": (6, 1)}
    assert iterations(fcfs(), jobs) == ["A5 B3 used 5", "B6 C1 A used 7", "C5 used 2"]


def test_the_latest_arrival_gives_way() -> None:
    """A and B need a third block each and one is left: C drops its cache. Its prompt and first
    token, eight tokens, need two blocks; one is free until A and B have finished.
    """
    jobs = {"A": (8, 4), "B": (8, 4), "C": (7, 4)}
    assert iterations(fcfs(max_num_batched_tokens=32), jobs, blocks=7) == [
        "A8 B8 C7 used 6",
        "-C AB used 6",
        "AB used 6",
        "AB used 6",
        "C8 used 2",
        "C used 3",
        "C used 3",
    ]


def test_swapping_brings_the_cache_back() -> None:
    """C goes when A grows, B when A grows again; both come back at once, nothing is recomputed."""
    jobs = {"A": (8, 6), "B": (7, 6), "C": (4, 3)}
    memory = LruMemory(preemption="swap")
    assert iterations(fcfs(max_num_batched_tokens=32), jobs, blocks=6, memory=memory) == [
        "A8 B7 C4 used 5",
        "-C AB used 5",
        "AB used 6",
        "AB used 6",
        "AB used 6",
        "-B A used 4",
        "+B +C BC used 5",
        "C used 2",
    ]


def test_background_return_runs_beside_the_others() -> None:
    """The copy takes 1.5 steps: C joins at the second boundary after it started."""
    jobs = {"A": (8, 3), "B": (7, 9), "C": (4, 3)}
    memory = LruMemory(preemption="swap", swap_in_timing="background")
    budget = fcfs(max_num_batched_tokens=32)
    assert iterations(budget, jobs, blocks=6, memory=memory, cost=FakeCost(copy=1.5)) == [
        "A8 B7 C4 used 5",
        "-C AB used 5",
        "AB used 6",
        "+C B used 4",
        "B used 4",
        "BC used 5",
        "BC used 6",
        "B used 4",
        "B used 4",
    ]


def test_budget_below_max_num_seqs_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_num_batched_tokens"):
        make_engine(fcfs(max_num_seqs=9), 10)


@pytest.mark.parametrize(("prompt", "rule"), [(70, "prompt_too_long"), (60, "exceeds_kv_capacity")])
def test_rejections(prompt: int, rule: str) -> None:
    engine = make_engine(fcfs(), 10, max_model_len=64)
    seq = engine.submit(request(0, prompt, 0), 0.0)
    assert engine.plan(0.0) is None
    assert (seq.outcome, seq.end_reason) == ("rejected", rule)
