"""TensorRT-LLM: worked schedules, iteration by iteration, with blocks of four tokens.

A name with a number is a chunk of a prompt, letters alone generate, `-` is a pause. T1 to T3 and
the others were worked from the rules of `capacityScheduler.cpp` and `microBatchScheduler.cpp`.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from harness import BlockingDriver, iterations, make_engine, request

from superinfer.draft import Draft
from superinfer.engine import Engine
from superinfer.errors import ConfigError
from superinfer.plan import Outcome, Plan
from superinfer.schedulers.tensorrt_llm import TensorRtLlmScheduler
from superinfer.schedulers.tensorrt_llm.queues import Queues
from superinfer.sequence import State


def trtllm(policy: str = "guaranteed_no_evict", **settings: Any) -> TensorRtLlmScheduler:
    settings.setdefault("max_batch_size", 8)
    settings.setdefault("max_num_tokens", 16)
    return TensorRtLlmScheduler(capacity_policy=policy, **settings)  # type: ignore[arg-type]


def declared(**lengths: int) -> dict[str, dict[str, Any]]:
    """`max_new_tokens` by name."""
    return {name: {"max_tokens": tokens} for name, tokens in lengths.items()}


T1 = {"A": (8, 6), "B": (7, 6), "C": (4, 3)}
T1_DECLARED = declared(A=8, B=8, C=4)


def test_t1_no_evict() -> None:
    """A and B reserve four blocks each, so C waits though half of them are free."""
    assert iterations(trtllm(), T1, requests=T1_DECLARED) == [
        "A8 B7 used 4",
        "AB used 5",
        "AB used 6",
        "AB used 6",
        "AB used 6",
        "AB used 7",
        "C4 used 1",
        "C used 2",
        "C used 2",
    ]


def test_t1_max_utilization() -> None:
    """C fits the memory of the first iteration and not its tokens; then it runs beside them."""
    assert iterations(trtllm("max_utilization"), T1, requests=T1_DECLARED) == [
        "A8 B7 used 4",
        "C4 AB used 6",
        "ABC used 8",
        "ABC used 8",
        "AB used 6",
        "AB used 7",
    ]


# -- memory ---------------------------------------------------------------------------------------


T2 = {"A": (4, 2), "B": (4, 2), "C": (4, 2)}
T2_DECLARED = declared(A=20, B=20, C=4)


def test_t2_no_evict_goes_by_declared_lengths() -> None:
    """A reserves six of eight blocks. B does not fit, and C is not asked, though it would."""
    assert iterations(trtllm(), T2, requests=T2_DECLARED) == [
        "A4 used 1",
        "A used 2",
        "B4 C4 used 2",
        "BC used 4",
    ]


def test_t2_max_utilization_does_not() -> None:
    assert iterations(trtllm("max_utilization"), T2, requests=T2_DECLARED) == [
        "A4 B4 C4 used 3",
        "ABC used 6",
    ]


def test_t3_pause() -> None:
    """The last one that has started pauses, and computes prompt and answer again."""
    jobs = {"A": (8, 6), "B": (8, 6), "C": (7, 6)}
    lengths = declared(A=8, B=8, C=8)
    lines = iterations(trtllm("max_utilization", max_num_tokens=32), jobs, requests=lengths)
    assert lines == [
        "A8 B8 C7 used 6",
        "ABC used 8",
        "-C AB used 6",
        "AB used 6",
        "AB used 6",
        "AB used 8",
        "C9 used 3",
        "C used 3",
        "C used 3",
        "C used 3",
    ]


def test_an_earlier_request_that_grows_pauses_a_later_one() -> None:
    """Of two that need a block the later one goes, and its prompt of six waits for two blocks: it
    has them once A is done.
    """
    jobs = {"A": (8, 5), "B": (4, 4)}
    lines = iterations(trtllm("max_utilization"), jobs, blocks=4, requests=declared(A=8, B=8))
    assert lines == [
        "A8 B4 used 3",
        "-B A used 3",
        "A used 3",
        "A used 3",
        "A used 3",
        "B5 used 2",
        "B used 2",
        "B used 2",
    ]


STATIC = {"A": (4, 2), "B": (4, 4), "C": (4, 2)}


@pytest.mark.parametrize(
    ("policy", "lines"),
    [
        (
            "static_batch",
            ["A4 B4 used 2", "AB used 4", "B used 2", "B used 2", "C4 used 1", "C used 2"],
        ),
        ("guaranteed_no_evict", ["A4 B4 used 2", "AB used 4", "C4 B used 3", "BC used 4"]),
    ],
)
def test_static_batch_waits_for_all(policy: str, lines: list[str]) -> None:
    """With places for two, C takes A's place at once or only when B is done as well."""
    lengths = declared(A=4, B=4, C=4)
    assert iterations(trtllm(policy, max_batch_size=2), STATIC, requests=lengths) == lines


def test_a_lower_number_in_priority_comes_first() -> None:
    requests = {"A": {"priority": 1, "max_tokens": 4}, "B": {"priority": 0, "max_tokens": 4}}
    lines = iterations(trtllm(max_batch_size=1), {"A": (4, 1), "B": (4, 1)}, requests=requests)
    assert lines == ["B4 used 1", "A4 used 1"]


@pytest.mark.parametrize(("factor", "at_once", "steps"), [(1, 4, 8), (2, 2, 16), (1 << 18, 1, 32)])
def test_declared_lengths_decide_how_many_run(factor: int, at_once: int, steps: int) -> None:
    """Eight requests of 4 and 4 tokens, with 8 blocks. Declared as they are each reserves two
    blocks, declared twice as long three, declared without bound all; pausing needs no bound.
    """
    jobs = dict.fromkeys("ABCDEFGH", (4, 4))
    lengths = declared(**dict.fromkeys(jobs, 4 * factor))
    lines = iterations(trtllm(), jobs, requests=lengths)
    assert len(lines) == steps
    assert max(len(line.split(" used")[0]) for line in lines if line[1] != "4") == at_once
    greedy = [
        iterations(trtllm("max_utilization"), jobs, requests=declared(**dict.fromkeys(jobs, n)))
        for n in (4, 4 * factor)
    ]
    assert greedy[0] == greedy[1] and len(greedy[0]) < 16


def test_who_gives_up_while_it_waits_had_nothing_reserved() -> None:
    """A reserves six of eight blocks. B and C need three each: that B has gone does not help C."""
    core = make_engine(trtllm(), 8)
    first, second, third = (
        core.submit(request(index, 4, 0, max_tokens=tokens), 0.0)
        for index, tokens in enumerate((20, 8, 8))
    )
    plan = core.plan(0.0)
    assert plan is not None and [chunk.sequence for chunk in plan.chunks] == [first]
    core.complete(plan, Outcome(1.0, [1.0]))
    core.cancel(second, 1.0)
    following = core.plan(1.0)
    assert following is not None and not following.chunks
    assert third.state is State.WAITING


# -- chunked contexts -----------------------------------------------------------------------------


def test_first_come_first_served_chunks_are_whole_blocks() -> None:
    """One of eight tokens is A's: of the seven left B gets one block of four, at last all six."""
    chunked = trtllm(context_chunking="first_come_first_served", max_num_tokens=8)
    lengths = declared(A=8, B=4)
    assert iterations(chunked, {"A": (4, 5), "B": (14, 3)}, {"B": 2}, requests=lengths) == [
        "A4 used 1",
        "B4 A used 6",
        "B4 A used 6",
        "B6 A used 6",
        "AB used 6",
        "B used 4",
    ]


def test_a_short_prompt_takes_what_a_block_does_not() -> None:
    """Of six tokens A gets four, and B's whole prompt fits the other two."""
    chunked = trtllm(context_chunking="first_come_first_served", max_num_tokens=6, max_batch_size=4)
    lengths = declared(A=2, B=2)
    assert iterations(chunked, {"A": (10, 1), "B": (2, 2)}, requests=lengths) == [
        "A4 B2 used 4",
        "A4 B used 4",
        "A2 used 3",
    ]


TWO = {"A": (10, 1), "B": (10, 1)}


@pytest.mark.parametrize(
    ("policy", "lines"),
    [
        ("first_come_first_served", ["A8 used 3", "A2 B4 used 6", "B6 used 3"]),
        ("equal_progress", ["A4 B4 used 6", "A4 B4 used 6", "A2 B2 used 6"]),
    ],
)
def test_equal_progress_shares_in_turns_of_a_block(policy: str, lines: list[str]) -> None:
    chunked = trtllm(context_chunking=policy, max_num_tokens=8)
    assert iterations(chunked, TWO, requests=declared(A=2, B=2)) == lines


def test_equal_progress_passes_over_a_block_that_does_not_fit() -> None:
    """Six tokens: A's block leaves two, too few for one of B's and for a second one of A's. In the
    next iteration they are enough for the rest of A, and B is passed over again.
    """
    chunked = trtllm(context_chunking="equal_progress", max_num_tokens=6, max_batch_size=4)
    assert iterations(chunked, TWO, requests=declared(A=2, B=2)) == [
        "A4 used 3",
        "A6 used 3",
        "B4 used 3",
        "B6 used 3",
    ]


def test_a_static_batch_stops_at_its_first_decode() -> None:
    """A context that is not complete then waits for all decodes, as a new one does."""
    static = trtllm("static_batch", context_chunking="first_come_first_served", max_num_tokens=8)
    lengths = declared(A=4, B=4)
    assert iterations(static, {"A": (4, 3), "B": (12, 1)}, requests=lengths) == [
        "A4 B4 used 4",
        "A used 5",
        "A used 5",
        "B8 used 3",
    ]


def test_started_contexts_go_on_where_the_real_engine_hangs() -> None:
    """B was put off for A's blocks. Now it comes before C in the list, does not fit beside what C
    holds, and so ends the search before C: nobody would ever run again.
    """
    ids: dict[str, dict[str, Any]] = {
        "A": {"hash_ids": (1, 2), "hash_block_tokens": 4, "max_tokens": 4},
        "B": {"hash_ids": (1, 2, 3, 4), "hash_block_tokens": 4, "max_tokens": 8},
        "C": {"hash_ids": (6, 7, 8, 9), "hash_block_tokens": 4, "max_tokens": 4},
    }
    jobs = {"A": (8, 1), "B": (16, 1), "C": (16, 1)}
    chunked = trtllm(context_chunking="first_come_first_served", max_num_tokens=12)
    assert iterations(chunked, jobs, requests=ids, prefix_caching=True) == [
        "A8 C4 used 6",
        "C12 used 4",
        "B8 used 4",
    ]


def test_contexts_before_decodes_take_their_tokens() -> None:
    """B is put off because A computes its first block. A step later it comes before C in the list:
    its fifteen tokens, cached or not, and A's one leave none for C.
    """
    jobs = {"A": (12, 3), "B": (15, 2), "C": (4, 3)}
    ids: dict[str, Any] = {name: {"hash_ids": (1, 2, 3, 4), "hash_block_tokens": 4} for name in "B"}
    ids["A"] = {"hash_ids": (1, 2, 3), "hash_block_tokens": 4}
    lines = iterations(
        trtllm("max_utilization"), jobs, blocks=16, requests=ids, prefix_caching=True
    )
    assert lines == ["A12 C4 used 4", "B3 A used 6", "ABC used 7", "C used 2"]


# -- reuse ----------------------------------------------------------------------------------------


def alike(names: str, *ids: int, **more: Any) -> dict[str, dict[str, Any]]:
    """Requests whose prompts begin with the same blocks."""
    return {name: {"hash_ids": ids, "hash_block_tokens": 4, **more} for name in names}


@pytest.mark.parametrize(
    ("reuse", "lines"),
    [
        (False, ["A12 B12 C4 used 7", "A used 4"]),
        (True, ["A12 C4 used 4", "B4 A used 5"]),
    ],
)
def test_skip_for_reuse(reuse: bool, lines: list[str]) -> None:
    """B waits an iteration and computes one block instead of three; C, behind it, goes on."""
    jobs = {"A": (12, 2), "B": (12, 1), "C": (4, 1)}
    requests = alike("AB", 1, 2, 3, max_tokens=4) | alike("C", 9, max_tokens=4)
    found = iterations(
        trtllm(max_num_tokens=32), jobs, blocks=12, requests=requests, prefix_caching=reuse
    )
    assert found == lines


@pytest.mark.parametrize("policy", ["guaranteed_no_evict", "max_utilization"])
def test_skip_for_reuse_lasts_as_long_as_the_chunks(policy: str) -> None:
    """B waits for all of A's chunks, though eight tokens are free beside the second one."""
    chunked = trtllm(policy, context_chunking="first_come_first_served")
    requests = alike("AB", 1, 2, 3, 4, 5, 6, max_tokens=4)
    jobs = {"A": (24, 1), "B": (24, 1)}
    lines = iterations(chunked, jobs, blocks=16, requests=requests, prefix_caching=True)
    assert lines == ["A16 used 6", "A8 used 6", "B4 used 6"]


def test_prompts_of_unknown_content_wait_for_nobody() -> None:
    """What they say is not known, so no block of theirs could be found."""
    lines = iterations(
        trtllm(max_num_tokens=32),
        {"A": (12, 1), "B": (12, 1)},
        requests=declared(A=4, B=4),
        prefix_caching=True,
    )
    assert lines == ["A12 B12 used 6"]


def test_a_static_batch_skips_nobody() -> None:
    requests = alike("AB", 1, 2, 3, max_tokens=4)
    jobs = {"A": (12, 1), "B": (12, 1)}
    static = trtllm("static_batch", max_num_tokens=32)
    lines = iterations(static, jobs, requests=requests, prefix_caching=True)
    assert lines == ["A12 B12 used 6"]


def test_a_chunk_starts_behind_the_cached_prefix() -> None:
    """Its length was decided before: eight tokens from the ninth on, then the last eight."""
    chunked = trtllm(context_chunking="first_come_first_served", max_num_tokens=8)
    requests = alike("A", 1, 2, 99, max_tokens=1) | alike("B", 1, 2, 3, 4, 5, 6, max_tokens=1)
    jobs = {"A": (8, 1), "B": (24, 1)}
    lines = iterations(chunked, jobs, {"B": 2}, requests=requests, prefix_caching=True)
    assert lines == ["A8 used 2", "B8 used 6", "B8 used 6"]


def test_shared_blocks_are_reserved_for_each_and_taken_once() -> None:
    """A and B reserve all eight blocks, of which they share three: C's two are free. The third is
    shared since B, which may not find its last token, computed it a second time.
    """
    requests = alike("AB", 1, 2, 3, max_tokens=4) | alike("C", 9, max_tokens=4)
    jobs = {"A": (12, 4), "B": (12, 4), "C": (4, 1)}
    lines = iterations(trtllm(), jobs, {"C": 3}, requests=requests, prefix_caching=True)
    assert lines[:3] == ["A12 used 3", "B4 A used 5", "C4 AB used 6"]


def test_reuse_is_charged_in_full_where_memory_is_counted() -> None:
    """B would take one block more than are free if it shared nothing: it waits for A."""
    requests = alike("AB", 1, 2, 3, max_tokens=4)
    jobs = {"A": (12, 2), "B": (12, 1)}
    lines = iterations(trtllm(), jobs, blocks=7, requests=requests, prefix_caching=True)
    assert lines == ["A12 used 3", "A used 4", "B4 used 3"]


# -- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "settings", "limits"),
    [
        (17, {}, {}),
        (32, {"max_num_tokens": 64}, {}),
        (32, {"context_chunking": "equal_progress"}, {}),
        (20, {"max_num_tokens": 64}, {"max_model_len": 20}),
    ],
)
@pytest.mark.parametrize("policy", ["guaranteed_no_evict", "max_utilization", "static_batch"])
def test_prompts_longer_than_the_longest_input(
    policy: str, prompt: int, settings: dict[str, Any], limits: dict[str, Any]
) -> None:
    """One token less than the longest sequence, and without chunks no more than a step takes."""
    core = make_engine(trtllm(policy, **settings), 8, **limits)
    refused, taken = (core.submit(request(i, prompt - i, 0), 0.0) for i in range(2))
    plan = core.plan(0.0)
    assert plan is not None and plan.chunks[0].sequence is taken
    assert (refused.outcome, refused.end_reason) == ("rejected", "prompt_exceeds_max_input_len")


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("policy", ["guaranteed_no_evict", "max_utilization"])
def test_an_answer_that_no_memory_holds(policy: str, lag: int) -> None:
    """Eight blocks hold 32 tokens: the prompt, four tokens of the answer, and the fifth comes."""
    core = make_engine(trtllm(policy, max_num_tokens=32), 8, lag=lag)
    jobs = [request(0, 28, 0), request(1, 4, 0, max_tokens=4)]
    BlockingDriver(core, jobs, [8, 2]).run()
    long, short = core.recorder.sequences
    assert (long.outcome, long.end_reason) == ("failed", "max_seq_len_reached")
    assert (long.output_tokens, short.outcome) == (5, "finished")


@pytest.mark.parametrize(("lag", "arrival_s"), [(0, 4.5), (1, 3.5)])
def test_an_answer_that_no_memory_holds_is_not_paused(lag: int, arrival_s: float) -> None:
    """The same when a request ahead of it in the list takes its blocks just then: paused, it would
    wait for ever.
    """
    core = make_engine(trtllm("max_utilization", max_num_tokens=32), 8, lag=lag)
    jobs = [request(0, 28, 0, priority=1), request(1, 4, 0, arrival_s)]
    BlockingDriver(core, jobs, [8, 2]).run()
    long, ahead = core.recorder.sequences
    assert (long.outcome, long.end_reason) == ("failed", "max_seq_len_reached")
    assert (long.output_tokens, ahead.outcome) == (5, "finished")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_batch_size": 0}, "max_batch_size: expected at least 1, got 0"),
        (
            {"max_batch_size": 32},
            r"max_num_tokens: expected at least max_batch_size \(32\), got 16",
        ),
        (
            {"max_batch_size": 2, "max_num_tokens": 3, "context_chunking": "equal_progress"},
            r"max_num_tokens: expected at least a block \(4\)",
        ),
        ({"tokens_per_block": 0}, "tokens_per_block: expected at least 1, got 0"),
        ({"free_gpu_memory_fraction": 0.0}, "free_gpu_memory_fraction: expected above 0"),
        ({"free_gpu_memory_fraction": 1.5}, "free_gpu_memory_fraction: .* at most 1, got 1.5"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_engine(trtllm(**settings), 8)


def test_block_size_and_defaults() -> None:
    assert TensorRtLlmScheduler().block_tokens == 32
    assert TensorRtLlmScheduler(tokens_per_block=64).block_tokens == 64


# -- short cuts against the long way --------------------------------------------------------------


def random_jobs(seed: int, count: int = 30) -> tuple[list[Any], list[int]]:
    """Three families of prompts, and answers of up to their declared length."""
    rng, now, jobs, answers = random.Random(seed), 0.0, [], []
    for index in range(count):
        now += rng.choice([0, 0, 0.5, 2, 6])
        prompt, most = rng.randint(1, 30), rng.randint(1, 24)
        first = 100 * (index if rng.random() < 0.3 else index % 3)
        ids = tuple(range(first, first - (-prompt // 6)))
        jobs.append(
            request(index, prompt, 0, now, hash_ids=ids, hash_block_tokens=6, max_tokens=most)
        )
        answers.append(rng.randint(1, most))
    return jobs, answers


CHUNKING = ("off", "first_come_first_served", "equal_progress")


@pytest.mark.parametrize("chunking", CHUNKING)
@pytest.mark.parametrize("seed", range(6))
def test_walking_the_whole_list_finds_the_same(monkeypatch: Any, seed: int, chunking: str) -> None:
    """MAX_UTILIZATION looks at everybody only where somebody has to pause or comes out of turn."""
    logs = []
    for walk in (False, True):
        if walk:
            monkeypatch.setattr(Queues, "in_turn", property(lambda _: False))
        events: list[Any] = []
        jobs, answers = random_jobs(seed)
        scheduler = trtllm(
            "max_utilization",
            context_chunking=chunking,
            max_num_tokens=32,
            max_batch_size=4 if seed % 2 else 8,
        )
        core = make_engine(scheduler, 16, sink=events.append, prefix_caching=True)
        BlockingDriver(core, jobs, answers).run()
        logs.append(events)
        assert any(event[1] == "preempt" for event in events)
    for free in (False, True):  # a slice logs arrivals, steps and evictions at another place
        one, other = (
            sorted((e for e in log if (e[1] in ("submit", "decode")) is free), key=lambda e: e[0])
            for log in ([e for e in log if e[1] != "evict"] for log in logs)
        )
        assert one == other


@pytest.mark.parametrize("chunking", CHUNKING)
@pytest.mark.parametrize("seed", range(4))
def test_reserved_blocks_are_those_of_everybody_who_runs(seed: int, chunking: str) -> None:
    """What is free less what each running request may still take, asked one by one."""
    jobs, answers = random_jobs(seed)
    scheduler = trtllm(context_chunking=chunking, max_num_tokens=32)
    core = make_engine(scheduler, 30, prefix_caching=True)
    checked: list[int] = []

    def check(engine: Engine, plan: Plan) -> None:
        draft, capacity = Draft(engine, plan.now), scheduler._capacity
        free = draft.available + plan.taken_blocks
        for seq in scheduler.queues.running:
            held = draft.held_blocks(seq)
            if seq.state is State.PREFILLING:
                held = draft.blocks_for(seq.prefill_tokens)
            free -= capacity.blocks_to_completion(seq) - held
        assert free == 30 - capacity.reserved_blocks + draft.saved_by_sharing >= 0
        checked.append(draft.saved_by_sharing)

    BlockingDriver(core, jobs, answers, check).run()
    assert max(checked) > 2
    assert scheduler._capacity.reserved_blocks == 0
    assert not any(len(queue) for queue in (scheduler.queues.running, scheduler.queues.waiting))


def test_a_steady_batch_is_one_plan() -> None:
    """Two requests that decode beside one that waits: one slice until the first of them ends."""
    core = make_engine(trtllm(), 8)
    jobs = [request(i, 4, 0, max_tokens=12) for i in range(3)]
    steps: list[int] = []
    BlockingDriver(core, jobs, [12, 10, 2], lambda _, plan: steps.append(plan.steps)).run()
    assert steps[0] == 1 and steps[1] > 9 and len(steps) < 7
