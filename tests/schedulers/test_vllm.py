"""vLLM v0.6.0: worked schedules, iteration by iteration.

V1, V1-swap, V2 and V3 were worked from the rules of `vllm/core/scheduler.py` at v0.6.0 with blocks
of four tokens and no watermark. A name with a number is a prefill chunk, letters alone decode.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from harness import BlockingDriver, FakeCost, iterations, make_engine, request

from superinfer.errors import ConfigError
from superinfer.schedulers.vllm import VllmScheduler
from superinfer.schedulers.vllm.chunked import Chunked

V1 = {"A": (8, 6), "B": (7, 6), "C": (4, 3)}


def vllm(**settings: Any) -> VllmScheduler:
    settings.setdefault("watermark", 0.0)
    settings.setdefault("max_num_seqs", 4)
    settings.setdefault("chunked", False)
    return VllmScheduler(**settings)


def test_v1_recompute() -> None:
    """C is preempted though it needs no new block, and its prefill then stalls A and B."""
    assert iterations(vllm(max_num_batched_tokens=16), V1) == [
        "A8 B7 used 4",
        "C4 used 5",
        "ABC used 7",
        "-C AB used 6",
        "C6 used 8",
        "AB used 6",
        "AB used 6",
        "AB used 7",
    ]


def test_v1_swap() -> None:
    """C comes back only when its two blocks and a spare one are free."""
    assert iterations(vllm(max_num_batched_tokens=16, preemption="swap"), V1) == [
        "A8 B7 used 4",
        "C4 used 5",
        "ABC used 7",
        "-C AB used 6",
        "AB used 6",
        "AB used 6",
        "AB used 7",
        "+C C used 2",
    ]


def test_v2_head_of_line() -> None:
    """B's whole prefill is thrown away, and C waits behind it though it would fit."""
    jobs = {"A": (8, 3), "B": (24, 2), "C": (4, 2)}
    assert iterations(vllm(max_num_batched_tokens=32), jobs) == [
        "A8 B24 used 8",
        "-B A used 3",
        "A used 3",
        "B25 C4 used 8",
        "C used 2",
    ]


V3 = {"A": (4, 5), "B": (14, 3)}


def test_v3_chunked() -> None:
    """Chunks of B share the budget with A's decodes; all of B's blocks are taken at once."""
    assert iterations(vllm(max_num_batched_tokens=8, chunked=True), V3, {"B": 2}) == [
        "A4 used 1",
        "B7 A used 6",
        "B7 A used 6",
        "AB used 6",
        "AB used 6",
    ]


def test_v3_not_chunked() -> None:
    """A stalls while B's prompt runs."""
    assert iterations(vllm(max_num_batched_tokens=16), V3, {"B": 2}) == [
        "A4 used 1",
        "B14 used 5",
        "AB used 6",
        "AB used 6",
        "A used 2",
        "A used 2",
    ]


def test_chunked_prefill_starves_the_decodes_behind_it() -> None:
    """A new prefill goes to the front of the running queue: its second chunk takes the whole
    budget, and A, left over, is served first in the iteration after.
    """
    jobs = {"A": (4, 5), "B": (14, 2)}
    chunked = vllm(max_num_batched_tokens=4, chunked=True)
    assert iterations(chunked, jobs, {"B": 2}) == [
        "A4 used 1",
        "B3 A used 6",
        "B4 used 6",
        "B3 A used 6",
        "B3 A used 6",
        "B1 A used 6",
        "B used 4",
    ]


def test_a_decode_for_which_the_budget_has_no_token_waits() -> None:
    """At iteration 3 C, in front, takes three of four tokens and A the fourth: none is B's."""
    jobs = {"A": (1, 3), "B": (5, 2), "C": (4, 1)}
    lines = iterations(vllm(max_num_batched_tokens=4, chunked=True), jobs, {"C": 2})
    assert lines == ["A1 B3 used 3", "B2 C1 A used 4", "C3 A used 4", "B used 2"]


def test_chunks_are_cut_to_whole_blocks_with_prefix_caching() -> None:
    """Of a budget of 8 the decode leaves 7: the chunk is one block of 4."""
    jobs = {"A": (4, 4), "B": (10, 2)}
    chunked = vllm(max_num_batched_tokens=8, chunked=True)
    lines = iterations(chunked, jobs, {"B": 2}, prefix_caching=True)
    assert lines[:3] == ["A4 used 1", "B4 A used 5", "B6 A used 5"]


def test_cached_prefix_is_charged_but_not_computed() -> None:
    """The second request computes its last block only, though the budget is charged all of it."""
    ids = {name: {"hash_ids": (1, 2, 3), "hash_block_tokens": 4} for name in "AB"}
    lines = iterations(
        vllm(max_num_batched_tokens=16),
        {"A": (12, 2), "B": (12, 1)},
        {"B": 3},
        requests=ids,
        prefix_caching=True,
    )
    assert lines == ["A12 used 3", "A used 4", "B4 used 3"]


def test_watermark_keeps_blocks_free() -> None:
    """With a watermark of 25 % of 8 blocks, B needs 4 + 2 and has to wait for A."""
    jobs = {"A": (12, 2), "B": (16, 1)}
    lines = iterations(vllm(max_num_batched_tokens=64, watermark=0.25), jobs)
    assert lines == ["A12 used 3", "A used 4", "B16 used 4"]


@pytest.mark.parametrize(
    ("prompt", "chunked", "rule"),
    [(70, False, "prompt_too_long"), (60, False, "prompt_exceeds_kv_capacity")],
)
def test_rejections(prompt: int, chunked: bool, rule: str) -> None:
    engine = make_engine(vllm(chunked=chunked), 10, max_model_len=64)
    seq = engine.submit(request(0, prompt, 0), 0.0)
    assert engine.plan(0.0) is None
    assert (seq.outcome, seq.end_reason) == ("rejected", rule)


def test_a_prompt_that_the_watermark_leaves_no_room_for_is_turned_away() -> None:
    """28 tokens fill seven of eight blocks, of which two always stay free. 24 come in."""
    engine = make_engine(vllm(watermark=0.25, max_num_batched_tokens=64), 8)
    long, short = (engine.submit(request(i, tokens, 0), 0.0) for i, tokens in enumerate((28, 24)))
    plan = engine.plan(0.0)
    assert long.end_reason == "prompt_exceeds_kv_capacity"
    assert plan is not None and [chunk.sequence for chunk in plan.chunks] == [short]


@pytest.mark.parametrize(
    ("max_model_len", "prefix_caching", "chunked", "budget"),
    [
        (8192, False, False, 8192),
        (1024, False, False, 2048),
        (131072, False, True, 512),
        (131072, True, False, 131072),
    ],
)
def test_defaults_depend_on_the_model(
    max_model_len: int, prefix_caching: bool, chunked: bool, budget: int
) -> None:
    """Chunking switches itself on above 32768 tokens, unless prefix caching is on."""
    scheduler = VllmScheduler()
    make_engine(scheduler, 100, max_model_len=max_model_len, prefix_caching=prefix_caching)
    assert (scheduler.chunked, scheduler._mode.limits.budget_tokens) == (chunked, budget)


def test_swapping_moves_every_layer_apart() -> None:
    """v0.6.0 copies K and V of each layer and block by themselves."""
    scheduler = vllm()
    make_engine(scheduler, 10, layers=32, cost=FakeCost())
    assert scheduler.copies_per_block == 64


def test_budget_below_max_num_seqs_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_num_batched_tokens: expected at least"):
        make_engine(vllm(max_num_seqs=32, max_num_batched_tokens=16), 10)


def test_chunks_that_are_no_whole_blocks_are_refused_with_prefix_caching() -> None:
    with pytest.raises(ConfigError, match="expected a multiple of the block size"):
        make_engine(vllm(chunked=True, max_num_batched_tokens=18), 10, prefix_caching=True)
    make_engine(vllm(chunked=True, max_num_batched_tokens=18), 10)
    make_engine(vllm(max_num_batched_tokens=18), 10, prefix_caching=True)


@pytest.mark.parametrize(("chunked", "rule"), [(False, "prompt_too_long"), (True, None)])
def test_without_chunks_a_prompt_has_to_fit_the_budget(chunked: bool, rule: str | None) -> None:
    engine = make_engine(vllm(chunked=chunked, max_num_batched_tokens=16), 10, max_model_len=64)
    seq = engine.submit(request(0, 17, 0), 0.0)
    engine.plan(0.0)
    assert seq.end_reason == rule


def test_host_full_fails_the_victim_alone() -> None:
    """The real engine aborts as a whole; here the others go on."""
    lines = iterations(vllm(max_num_batched_tokens=16, preemption="swap"), V1, host_blocks=1)
    assert lines[3:] == ["AB used 6", "AB used 6", "AB used 6", "AB used 7"]


@pytest.mark.interpreted
@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("seed", range(12))
def test_short_cuts_equal_the_walk(monkeypatch: Any, seed: int, preemption: str) -> None:
    """Serving the running queue one by one in every iteration gives the same events."""
    logs = []
    for walk in (False, True):
        if walk:
            never = lambda *_: False  # noqa: E731
            monkeypatch.setattr(Chunked, "_only_decodes", never)
            monkeypatch.setattr(Chunked, "_one_prefill_takes_the_rest", never)
            monkeypatch.setattr(Chunked, "_chunks_beside", lambda *_: None)
        events: list[Any] = []
        scheduler = vllm(
            max_num_batched_tokens=16, max_num_seqs=8, chunked=True, preemption=preemption
        )
        rng = random.Random(seed)
        jobs = [
            request(i, rng.choice([3, 9, 40, 70]), 0, arrival_s=i * rng.choice([0.5, 2]))
            for i in range(20)
        ]
        jobs.sort(key=lambda job: job.arrival_s)
        core = make_engine(scheduler, 30, host_blocks=200, sink=events.append)
        BlockingDriver(core, jobs, [rng.randint(1, 30) for _ in jobs]).run()
        logs.append(events)
    for free in (False, True):  # a slice logs arrivals and steps at another place
        one, other = (
            sorted((e for e in log if (e[1] in ("submit", "decode")) is free), key=lambda e: e[0])
            for log in logs
        )
        assert one == other


@pytest.mark.parametrize("chunked", [False, True])
def test_running_sequences_take_their_places_before_anybody_new(chunked: bool) -> None:
    """Two places, six free blocks and eight tokens to spare: C waits for one of them to end."""
    jobs = {"A": (4, 3), "B": (4, 3), "C": (4, 1)}
    lines = iterations(vllm(max_num_batched_tokens=16, max_num_seqs=2, chunked=chunked), jobs)
    assert lines == ["A4 B4 used 2", "AB used 4", "AB used 4", "C4 used 1"]


def test_of_several_victims_the_oldest_comes_back_first() -> None:
    """Of five blocks one is free when all four need one: A takes it, D leaves for B, and C itself.
    Both go to the front of the queue, before E, which has come meanwhile.
    """
    jobs = {"A": (4, 2), "B": (4, 2), "C": (4, 2), "D": (4, 2), "E": (4, 1)}
    lines = iterations(vllm(max_num_batched_tokens=16), jobs, {"E": 3}, blocks=5)
    assert lines == ["A4 B4 C4 D4 used 4", "-D -C AB used 4", "C5 D5 E4 used 5"]


def test_nobody_new_comes_in_while_somebody_is_on_the_host() -> None:
    """V1-swap with D, which one of the two free blocks would hold: no prompt before C is back."""
    jobs = V1 | {"D": (4, 1)}
    one = vllm(max_num_batched_tokens=16, preemption="swap")
    lines = iterations(one, jobs, {"D": 5})
    assert lines[3:7] == ["-C AB used 6", "AB used 6", "AB used 6", "AB used 7"]
    assert lines[7:] == ["+C C used 2", "D4 used 1"]


def test_nobody_comes_back_in_a_step_in_which_somebody_had_to_leave() -> None:
    """C leaves for A's block and B for its own. There is room for C again, but it waits a step."""
    jobs = {"A": (12, 2), "B": (16, 2), "C": (3, 2)}
    one = vllm(max_num_batched_tokens=32, preemption="swap")
    assert iterations(one, jobs) == ["A12 B16 C3 used 8", "-C -B A used 4", "+C +B BC used 6"]


def test_with_chunks_a_new_prompt_passes_who_is_on_the_host() -> None:
    """C came to the front of the running queue, so B makes room for it at it4, and D comes in in
    that very step, in which nobody is looked for on the host.
    """
    jobs = V1 | {"D": (4, 1)}
    one = vllm(max_num_batched_tokens=16, preemption="swap", chunked=True)
    assert iterations(one, jobs, {"C": 2, "D": 4})[:5] == [
        "A8 B7 used 4",
        "C4 AB used 6",
        "ABC used 8",
        "D4 -B AC used 6",
        "+B AB used 6",
    ]


@pytest.mark.parametrize(
    ("watermark", "lines"),
    [(0.125, ["+C AC used 7"]), (0.25, ["A used 5", "A used 5", "A used 6", "+C C used 2"])],
)
def test_who_comes_back_leaves_the_watermark_free(watermark: float, lines: list[str]) -> None:
    """C, of one block, finds three free at it4, and asks for a spare one and the watermark."""
    jobs = {"A": (16, 6), "B": (4, 3), "C": (4, 3)}
    one = vllm(max_num_batched_tokens=32, preemption="swap", watermark=watermark)
    found = iterations(one, jobs)
    assert found[:3] == ["A16 B4 C4 used 6", "-C AB used 7", "AB used 7"]
    assert found[3:][: len(lines)] == lines


def test_admission_asks_for_blocks_that_the_cache_holds_already() -> None:
    """B shares A's three blocks and lacks one. Two of six are free, and all four are asked for."""
    ids = {name: {"hash_ids": (1, 2, 3, 4), "hash_block_tokens": 4} for name in "AB"}
    lines = iterations(
        vllm(max_num_batched_tokens=16),
        {"A": (12, 3), "B": (16, 1)},
        {"B": 3},
        blocks=6,
        requests=ids | {"A": {"hash_ids": (1, 2, 3), "hash_block_tokens": 4}},
        prefix_caching=True,
    )
    assert lines == ["A12 used 3", "A used 4", "A used 4", "B4 used 4"]
