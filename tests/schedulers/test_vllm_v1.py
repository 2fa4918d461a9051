"""vLLM V1: worked schedules, iteration by iteration.

Worked from the rules of `vllm/v1/core/sched/scheduler.py` at 0.33.0 with blocks of four tokens. One
block of each pool is the null block, so 8 blocks hold 28 tokens. A name with a number is a prefill
chunk, letters alone decode.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from harness import BlockingDriver, iterations, make_engine, request

from superinfer.errors import ConfigError
from superinfer.heaps import FEWEST
from superinfer.memory.vllm_v1.policy import VllmV1Memory
from superinfer.schedulers.vllm_v1 import VllmV1Scheduler
from superinfer.schedulers.vllm_v1.queue import WaitingQueue
from superinfer.schedulers.vllm_v1.running import Running
from superinfer.sequence import Sequence

V1 = {"A": (8, 6), "B": (7, 6), "C": (4, 3)}


def v1(**settings: Any) -> VllmV1Scheduler:
    settings.setdefault("max_num_seqs", 4)
    settings.setdefault("max_num_batched_tokens", 16)
    return VllmV1Scheduler(**settings)


def cached(scheduler: VllmV1Scheduler, *args: Any, **more: Any) -> list[str]:
    """Iterations with the prefix cache of V1."""
    return iterations(scheduler, *args, memory=VllmV1Memory(), prefix_caching=True, **more)


def text(*ids: int) -> dict[str, Any]:
    return {"hash_ids": ids, "hash_block_tokens": 4}


def test_one_budget_for_all() -> None:
    """The last token of the first step goes to C; then decodes and its tail share a step."""
    assert iterations(v1(), V1, blocks=9) == [
        "A8 B7 C1 used 5",
        "C3 AB used 6",
        "ABC used 8",
        "ABC used 8",
        "AB used 6",
        "AB used 7",
    ]


def test_the_last_of_the_running_gives_way() -> None:
    """In the third step B takes the last block, and C, which needs one too, preempts itself."""
    assert iterations(v1(), V1, blocks=8) == [
        "A8 B7 C1 used 5",
        "C3 AB used 6",
        "-C AB used 6",
        "AB used 6",
        "AB used 6",
        "AB used 7",
        "C5 used 2",
        "C used 2",
    ]


def test_a_preempted_request_finds_its_own_blocks() -> None:
    """C's first block is still there when B has gone: one token of its five is computed."""
    jobs = {"A": (8, 6), "B": (7, 4), "C": (4, 3)}
    expected = ["A8 B7 C1 used 5", "C3 AB used 6", "-C AB used 6", "AB used 6"]
    assert cached(v1(), jobs, blocks=8) == [*expected, "C1 A used 5", "AC used 6"]
    assert iterations(v1(), jobs, blocks=8) == [*expected, "C5 A used 5", "AC used 6"]


PRIORITIES = {"A": {"priority": 1}, "B": {"priority": 0}}


def test_priority_takes_back_what_the_step_has_scheduled() -> None:
    """A is served first; then B lacks a block and A, of the larger priority, loses its own."""
    jobs = {"A": (8, 9), "B": (7, 5)}
    priority = v1(policy="priority")
    assert iterations(priority, jobs, {"B": 2}, blocks=6, requests=PRIORITIES) == [
        "A8 used 2",
        "B7 A used 5",
        "AB used 5",
        "-A B used 3",
        "B used 3",
        "B used 3",
        "A11 used 3",
        "A used 3",
        *["A used 4"] * 4,
    ]


def test_priority_orders_the_queue_and_does_not_preempt_to_admit() -> None:
    """C goes before B, though it came later, but waits until A has finished."""
    jobs = {"A": (16, 3), "B": (8, 1), "C": (8, 1)}
    requests = {"A": {"priority": 5}, "B": {"priority": 1}, "C": {"priority": 0}}
    priority = v1(policy="priority")
    assert iterations(priority, jobs, {"B": 2, "C": 3}, blocks=6, requests=requests) == [
        "A16 used 4",
        "A used 5",
        "A used 5",
        "C8 B8 used 4",
    ]


def test_the_whole_prompt_must_fit() -> None:
    """B's first chunk would fit beside A, its whole prompt does not."""
    jobs = {"A": (12, 3), "B": (20, 1)}
    assert iterations(v1(), jobs, blocks=8) == [
        "A12 used 3",
        "A used 4",
        "A used 4",
        "B16 used 4",
        "B4 used 5",
    ]


def test_without_reserve_a_first_chunk_is_enough() -> None:
    """B comes in with four tokens; its next fifteen do not fit, so it loses what it had."""
    jobs = {"A": (12, 3), "B": (20, 1)}
    assert iterations(v1(scheduler_reserve_full_isl=False), jobs, blocks=8) == [
        "A12 B4 used 4",
        "-B A used 4",
        "A used 4",
        "B16 used 4",
        "B4 used 5",
    ]


def test_blocks_are_taken_chunk_by_chunk() -> None:
    assert iterations(v1(), {"A": (24, 2)}, blocks=9)[:3] == [
        "A16 used 4",
        "A8 used 6",
        "A used 7",
    ]


def test_threshold_spares_the_others() -> None:
    """Chunks of at most four tokens; a request that is alone may take more."""
    jobs = {"A": (10, 2), "B": (6, 2)}
    limited = v1(long_prefill_token_threshold=4)
    assert iterations(limited, jobs, blocks=9) == [
        "A4 B4 used 2",
        "A4 B2 used 4",
        "A2 B used 5",
        "A used 3",
    ]
    limited = v1(long_prefill_token_threshold=4)
    assert iterations(limited, {"A": (10, 2)}, blocks=9) == ["A10 used 3", "A used 3"]


def test_adaptive_threshold_is_a_fair_share() -> None:
    """16 tokens for two requests: eight each."""
    limited = v1(long_prefill_token_threshold=4, long_prefill_token_threshold_adaptive=True)
    lines = iterations(limited, {"A": (10, 2), "B": (6, 2)}, blocks=9)
    assert lines[0] == "A8 B6 used 4"


def test_without_chunks_a_prompt_waits_for_its_turn() -> None:
    """After A's twelve tokens B's six do not fit into the budget."""
    whole = v1(chunked=False)
    jobs = {"A": (12, 1), "B": (6, 1)}
    assert iterations(whole, jobs, blocks=9, max_model_len=16) == ["A12 used 3", "B6 used 2"]


def test_watermark_keeps_blocks_free_while_others_run() -> None:
    """A quarter of 12 blocks: beside A's four (of eleven) B's five would leave two."""
    jobs = {"A": (16, 2), "B": (20, 1)}
    lines = iterations(v1(watermark=0.25, max_num_batched_tokens=64), jobs, blocks=12)
    assert lines == ["A16 used 4", "A used 5", "B20 used 5"]


def test_requests_of_one_step_share() -> None:
    """B finds the two whole blocks that A has just been given; its last block it computes anew."""
    lines = cached(
        v1(), {"A": (12, 1), "B": (12, 1)}, blocks=9, requests=dict.fromkeys("AB", text(1, 2, 3))
    )
    assert lines == ["A12 B4 used 4"]


def test_the_deepest_block_goes_first() -> None:
    """B takes four empty blocks and the second of A's two cached ones; C finds the first."""
    jobs = {"A": (10, 2), "B": (20, 1), "C": (10, 1)}
    lines = cached(
        v1(max_num_batched_tokens=32),
        jobs,
        {"B": 3, "C": 4},
        blocks=7,
        requests={"A": text(1, 2, 3), "B": text(10, 11, 12, 13, 14), "C": text(1, 2, 4)},
    )
    assert lines == ["A10 used 3", "A used 3", "B20 used 5", "C6 used 3"]


@pytest.mark.parametrize(("max_tokens", "steps"), [(3, 3), (99, 4)])
def test_ahead_only_a_limit_is_foreseen(max_tokens: int, steps: int) -> None:
    """With asynchronous scheduling a request that stops by itself is decoded once too often."""
    lines = iterations(
        v1(), {"A": (4, 3)}, blocks=9, lag=1, requests={"A": {"max_tokens": max_tokens}}
    )
    assert lines == ["A4 used 1", *["A used 2"] * (steps - 1)]


@pytest.mark.parametrize(
    ("prompt", "rule"), [(64, "prompt_too_long"), (60, "exceeds_kv_capacity"), (36, None)]
)
def test_rejections(prompt: int, rule: str | None) -> None:
    """Ten blocks hold 36 tokens; a prompt of `max_model_len` leaves no room for an answer."""
    engine = make_engine(v1(), 10, max_model_len=64)
    seq = engine.submit(request(0, prompt, 0), 0.0)
    assert (engine.plan(0.0) is None) == bool(rule)
    assert seq.end_reason == rule


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_num_seqs": 32}, "max_num_batched_tokens: expected at least max_num_seqs"),
        ({"policy": "lifo"}, "policy: expected fcfs or priority, got 'lifo'"),
        ({"long_prefill_token_threshold": -1}, "threshold: expected 0 or more, got -1"),
        ({"chunked": False}, "expected at least max_model_len .* without chunked prefill, got 16"),
        ({"watermark": 1.0}, "watermark: expected from 0 to below 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_engine(v1(**settings), 10)


def test_defaults_of_the_release() -> None:
    scheduler = VllmV1Scheduler()
    assert (scheduler.max_num_seqs, scheduler.max_num_batched_tokens) == (256, 2048)
    assert (scheduler.block_tokens, scheduler.null_blocks) == (16, 1)


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("seed", range(8))
def test_short_cuts_equal_the_walk(monkeypatch: Any, seed: int, lag: int, prefix: bool) -> None:
    """Serving the running queue one by one in every step gives the same events."""
    logs = []
    for walk in (False, True):
        if walk:
            monkeypatch.setattr(Running, "_chunks_beside", lambda *_: None)
            monkeypatch.setattr(Running, "_steps_to_limit", lambda *_: 1)
        events: list[Any] = []
        rng = random.Random(seed)
        scheduler = v1(max_num_seqs=8, policy=rng.choice(["fcfs", "priority"]))
        now, jobs = 0.0, []
        for index in range(20):
            now += rng.choice([0, 0, 0.5, 2])
            prompt = rng.choice([3, 9, 40, 70])
            ids = tuple(range(-(-prompt // 4))) if rng.random() < 0.5 else ()
            more = {"hash_ids": ids, "hash_block_tokens": 4, "priority": rng.randint(0, 2)}
            jobs.append(request(index, prompt, 0, now, max_tokens=rng.randint(20, 40), **more))
        core = make_engine(
            scheduler,
            30,
            memory=VllmV1Memory(),
            sink=events.append,
            lag=lag,
            prefix_caching=prefix,
        )
        BlockingDriver(core, jobs, [rng.randint(1, 40) for _ in jobs]).run()
        logs.append(events)
    for kinds in ({"submit"}, {"decode"}, {"evict"}):  # a slice logs these at another place
        one, other = ([e for e in log if e[1] in kinds] for log in logs)
        if kinds == {"evict"}:
            assert sum(e[3] for e in one) == sum(e[3] for e in other)
        else:
            assert one == other
    in_place = [[e for e in log if e[1] not in ("submit", "decode", "evict")] for log in logs]
    assert in_place[0] == in_place[1]
    assert any(event[1] == "preempt" for event in logs[0])


def test_the_queue_forgets_who_left_behind_a_head_that_stays() -> None:
    """Who is passed over meanwhile comes back to its place."""
    queue = WaitingQueue(ranked=True)
    for number in range(3 * FEWEST):
        seq = Sequence(request(number, 1, 0))
        seq.rank = (float(number),)
        queue.add(seq)
        if number == 1:
            queue.pass_over(seq)
            passed = seq
        elif number:
            queue.discard(seq)
        else:
            first = seq
        assert queue.head() is first
    assert len(queue._heap) <= FEWEST + 1
    queue.end_pass()
    queue.discard(first)
    assert queue.head() is passed
