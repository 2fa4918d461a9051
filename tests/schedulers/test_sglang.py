"""SGLang: worked schedules, iteration by iteration, with a pool that is counted in tokens.

S1, S2 and S3 were worked from the rules of `managers/scheduler.py` and `schedule_policy.py`. A name
with a number is a prefill chunk, letters alone decode; `used` is what running requests hold.
"""

from __future__ import annotations

from typing import Any

import pytest
from harness import BlockingDriver, make_engine, request
from public_data import REPOSITORY
from sglang_runs import Jobs, order, run

from sim.driver import simulate
from sim.oracle import Oracle
from superinfer.draft import Draft
from superinfer.errors import ConfigError
from superinfer.memory.radix import RadixMemory
from superinfer.memory.vllm_v1.policy import VllmV1Memory
from superinfer.plan import Outcome
from superinfer.schedulers.sglang import SglangScheduler
from superinfer.schedulers.sglang.rules import RULES, max_running_requests
from traces.readers import read_trace

# -- admission and the flag -----------------------------------------------------------------------

S1 = {"A": (8, 6, 8), "B": (7, 6, 8), "C": (4, 3, 8)}


def test_s1_the_flag_of_the_scheduler_sticks() -> None:
    """C needs 12 and 40 - 16 - 15 = 9 are left; it is tried again only when A and B have gone."""
    assert run(SglangScheduler("0.4.1"), S1, pool=40) == [
        "A8 B7 used 15",
        *(f"AB used {tokens}" for tokens in (17, 19, 21, 23, 25)),
        "C4 used 4",
        "C used 5",
        "C used 6",
    ]


@pytest.mark.parametrize("version", ["0.4.6", "0.3.2"])
def test_s1_the_flag_of_an_empty_batch_is_lost(version: Any) -> None:
    """At v0.4.6 the prefill batch takes the place of the empty running batch with its flag, so C is
    tried again at once: 12 against 40 - 15 - 0.7 * 14 = 15.2. v0.3.2 has no flag after a prefill.
    """
    assert run(SglangScheduler(version), S1, pool=40)[:3] == [
        "A8 B7 used 15",
        "C4 used 19",
        "ABC used 22",
    ]


@pytest.mark.parametrize("version", ["0.4.6", "0.4.1"])
def test_a_full_batch_is_not_tried_until_it_is_filtered(version: Any) -> None:
    """C needs 16 at it3: 45 - 8 - 0.7 * (19 + 15) = 13.2. B is done at it4 and filtered at it5,
    which decodes once more; only it6 tries again.
    """
    jobs = {"A": (4, 5, 20), "B": (4, 3, 16), "C": (4, 2, 12)}
    assert run(SglangScheduler(version), jobs, {"B": 2, "C": 3}, pool=45) == [
        "A4 used 4",
        "B4 used 8",
        "AB used 10",
        "AB used 12",
        "A used 7",
        "C4 used 11",
        "AC used 13",
    ]


def test_a_finished_request_holds_its_reserve_until_the_next_filter() -> None:
    """B is done at it4 with 13 of its limit unused. D needs 16 at it5: 38 - 6 less
    0.698 * (17 + 13) is too little, 0.698 * 17 alone would not be.
    """
    jobs = {"A": (4, 6, 20), "B": (4, 3, 16), "D": (4, 2, 12)}
    assert run(SglangScheduler(), jobs, {"B": 2, "D": 5}, pool=38)[3:6] == [
        "AB used 12",
        "A used 7",
        "D4 used 11",
    ]


def test_new_tokens_are_clipped() -> None:
    """Two limits of 1000 fit into 20 tokens if five each are expected."""
    jobs = {"A": (4, 2, 1000), "B": (4, 2, 1000)}
    clipped = SglangScheduler(clip_new_tokens=5)
    assert run(clipped, jobs, pool=20) == ["A4 B4 used 8", "AB used 10"]
    assert run(SglangScheduler(clip_new_tokens=9), jobs, pool=20)[0] == "A4 used 4"


@pytest.mark.parametrize(("pool", "line"), [(18, "A4 used 4"), (19, "A4 B4 used 8")])
def test_a_token_must_be_left_over(pool: int, line: str) -> None:
    """B needs 9, and of 18 tokens A and its limit leave just as many."""
    jobs = {"A": (4, 2, 5), "B": (4, 2, 5)}
    assert run(SglangScheduler(), jobs, pool=pool)[0] == line


def test_the_prefill_budget_ends_a_batch_unless_it_is_empty() -> None:
    jobs = {"A": (9, 1, 1), "B": (3, 1, 1), "C": (5, 1, 1), "D": (4, 1, 1)}
    lines = run(SglangScheduler(max_prefill_tokens=8), jobs, pool=100)
    assert lines == ["A9 used 9", "B3 C5 used 8", "D4 used 4"]


def test_running_requests_are_limited() -> None:
    jobs = {"A": (4, 3, 3), "B": (4, 2, 2), "C": (4, 1, 1)}
    assert run(SglangScheduler(max_num_seqs=2), jobs, pool=100) == [
        "A4 B4 used 8",
        "AB used 10",
        "A used 6",
        "C4 used 4",
    ]


def test_default_limits_of_running_requests() -> None:
    limits = [max_running_requests(RULES["0.4.6"], pool, 8192) for pool in (100, 20_000, 10**6)]
    assert limits == [50, 2048, 4096]
    assert max_running_requests(RULES["0.4.6"], 48_000, 8192) == 3000
    assert max_running_requests(RULES["0.3.2"], 10**6, 8192) == 5120


@pytest.mark.parametrize(
    ("version", "prompt", "rejected"),
    [("0.4.6", 33, False), ("0.4.6", 34, True), ("0.3.2", 38, False), ("0.3.2", 39, True)],
)
def test_long_prompts_are_turned_away_on_arrival(version: Any, prompt: int, rejected: bool) -> None:
    """The longest request is a token shorter than the pool of 40; v0.4 wants 5 more to be left."""
    engine = make_engine(SglangScheduler(version), 40, block_tokens=1)
    seq = engine.submit(request(0, prompt, 0, max_tokens=1), 0.0)
    plan = engine.plan(0.0)
    assert (plan is None, seq.end_reason) == (rejected, "prompt_too_long" if rejected else None)


# -- chunks ---------------------------------------------------------------------------------------

S3 = {"A": (4, 4, 4), "B": (14, 3, 4)}


def test_s3_a_cut_prompt_is_finished_before_anything_decodes() -> None:
    """All blocks of B are taken at its first chunk; A stalls twice."""
    assert run(SglangScheduler(chunked_prefill_tokens=8), S3, pool=64) == [
        "A4 B4 used 18",
        "B8 used 18",
        "B2 used 18",
        "AB used 20",
        "AB used 22",
        "A used 7",
    ]


def test_s3_mixed() -> None:
    """A decodes beside the chunks and takes a token of each."""
    scheduler = SglangScheduler(chunked_prefill_tokens=8, mixed_chunk=True)
    assert run(scheduler, S3, pool=64) == [
        "A4 B4 used 18",
        "B7 A used 19",
        "B3 A used 20",
        "AB used 22",
        "B used 16",
    ]


def test_mixed_batches_put_new_requests_first_and_leave_the_ratio_alone() -> None:
    """Two of four decode steps are mixed, or none of three; B joins in front of A or behind."""
    for mixed, steps in ((True, 2), (False, 3)):
        scheduler = SglangScheduler(chunked_prefill_tokens=8, mixed_chunk=mixed)
        engine = make_engine(scheduler, 64, block_tokens=1)
        jobs = [request(0, 4, 0, max_tokens=4), request(1, 14, 0, max_tokens=4)]
        BlockingDriver(engine, jobs, [4, 3]).run()
        a, b = engine.recorder.sequences
        assert (b.rank < a.rank) is mixed
        assert scheduler._decode_steps(Draft(engine, 0.0)) == steps


def test_the_last_chunk_shares_its_batch_and_a_second_prompt_is_cut() -> None:
    jobs = {"A": (10, 1, 1), "B": (3, 1, 1), "C": (7, 1, 1)}
    lines = run(SglangScheduler(chunked_prefill_tokens=8), jobs, pool=64)
    assert lines == ["A8 used 10", "A2 B3 C3 used 20", "C4 used 7"]


def test_without_chunks_a_prompt_runs_whole() -> None:
    assert run(SglangScheduler(chunked_prefill_tokens=0), S3, pool=64)[0] == "A4 B14 used 18"


@pytest.mark.parametrize(
    ("chunk_tokens", "batch_tokens", "most"),
    [(8, 12, 8), (0, 12, 14), (0, 18, 18), (0, 30, 22)],
)
def test_no_step_has_more_tokens_than_it_says(
    chunk_tokens: int, batch_tokens: int, most: int
) -> None:
    """B is longer than a batch of twelve, and 22 tokens are all there are."""
    scheduler = SglangScheduler(
        chunked_prefill_tokens=chunk_tokens, max_prefill_tokens=batch_tokens
    )
    lines = run(scheduler, {**S3, "C": (4, 1, 4)}, pool=64)
    words = [[word for word in line.split() if order([word])] for line in lines]
    assert max(sum(int(word[1:]) for word in line) for line in words) == most
    assert most <= scheduler.largest_prefill(max_model_len=14)


def test_mixed_batches_lose_the_flag_each_time() -> None:
    """it2: B fits (10 against 24 - 4 - 1 - 3.5), C does not and the flag is set; the mixed batch
    takes the place of the running one. it3: C fails again, and now the flag stays until A, done at
    it4, is filtered at it5.
    """
    jobs = {"A": (4, 4, 6), "B": (4, 4, 6), "C": (4, 1, 6)}
    lines = run(SglangScheduler(mixed_chunk=True), jobs, {"B": 2, "C": 2}, pool=24)
    assert lines == [
        "A4 used 4",
        "B4 A used 9",
        "AB used 11",
        "AB used 13",
        "B used 7",
        "C4 used 4",
    ]


def test_a_mixed_batch_without_room_for_the_decodes_runs_the_chunk_alone() -> None:
    """The real engine aborts where B's chunks have taken the last token."""
    jobs = {"A": (4, 9, 9), "B": (12, 1, 1)}
    scheduler = SglangScheduler(
        chunked_prefill_tokens=4, mixed_chunk=True, schedule_conservativeness=0.01
    )
    lines = run(scheduler, jobs, {"B": 2}, pool=19)
    assert lines[:6] == [
        "A4 used 4",
        "B3 A used 17",
        "B3 A used 18",
        "B3 A used 19",
        "B3 used 19",
        "A used 8",
    ]


# -- v0.3.2 ---------------------------------------------------------------------------------------


def test_rounds_of_decode_steps() -> None:
    """B comes before it4 and waits for the eighth decode step, at which tokens are sent. C comes
    when B's end has just closed the round.
    """
    jobs = {"A": (4, 12, 20), "B": (4, 2, 4), "C": (4, 2, 4)}
    lines = run(SglangScheduler("0.3.2"), jobs, {"B": 4, "C": 12}, pool=100)
    assert lines == [
        "A4 used 4",
        *(f"A used {tokens}" for tokens in range(5, 13)),
        "B4 used 16",
        "AB used 18",
        "C4 used 17",
        "AC used 19",
        "A used 15",
    ]


def test_rounds_without_streaming_take_ten_steps() -> None:
    jobs = {"A": (4, 12, 20), "B": (4, 2, 4), "C": (4, 1, 4)}
    scheduler = SglangScheduler("0.3.2", stream=False)
    lines = run(scheduler, jobs, {"B": 4, "C": 11}, pool=100)
    assert lines[10:] == ["A used 14", "B4 C4 used 22", "AB used 20"]


def test_nobody_is_tried_after_a_round_until_somebody_arrives() -> None:
    """B's end leaves room for C, but its round had a step in which nobody ended. C waits for the
    end of A; v0.4.6 takes it in two steps after B.
    """
    jobs = {"A": (4, 9, 20), "B": (4, 3, 8), "C": (4, 1, 8)}
    starving = run(SglangScheduler("0.3.2"), jobs, pool=37)
    assert starving == [
        "A4 B4 used 8",
        "AB used 10",
        "AB used 12",
        *(f"A used {tokens}" for tokens in range(7, 13)),
        "C4 used 4",
    ]
    assert run(SglangScheduler("0.4.6"), jobs, pool=37)[3:5] == ["A used 7", "C4 used 11"]


# -- order of the queue ---------------------------------------------------------------------------


def ids(*keys: int) -> dict[str, Any]:
    """Content ids, one for 16 tokens."""
    return {"hash_ids": keys, "hash_block_tokens": 16}


CACHED = {"A": (48, 2, 2), "B": (20, 1, 1), "C": (50, 1, 1)}
CACHED_IDS = {"A": ids(1, 2, 3), "B": ids(7, 8), "C": ids(1, 2, 3, 4)}


def test_longest_cached_prefix_first() -> None:
    """A has left its 48 tokens when B and C come; 20 prompt tokens fit into a batch."""

    def lines(policy: Any) -> list[str]:
        scheduler = SglangScheduler(policy=policy, max_prefill_tokens=20)
        return run(
            scheduler, CACHED, {"B": 3, "C": 3}, pool=200, more=CACHED_IDS, prefix_caching=True
        )

    assert lines("fcfs")[2:] == ["B20 used 20", "C2 used 50"]
    assert lines("lpm")[2:] == ["C2 used 50", "B20 used 20"]


@pytest.mark.parametrize(
    ("version", "policy", "expected"),
    [("0.4.6", "lpm", "ACB"), ("0.4.6", "fcfs", "ABC"), ("0.3.2", "lpm", "ABC")],
)
def test_who_shares_an_uncached_prefix_comes_last(version: Any, policy: Any, expected: str) -> None:
    """B begins with the same 32 tokens as A, which nobody has computed."""
    jobs = {"A": (40, 1, 1), "B": (41, 1, 1), "C": (33, 1, 1)}
    more = {"A": ids(1, 2, 3), "B": ids(1, 2, 4), "C": ids(9, 10, 11)}
    scheduler = SglangScheduler(version, policy)
    assert order(run(scheduler, jobs, pool=200, more=more, prefix_caching=True)) == list(expected)


@pytest.mark.parametrize(("policy", "expected"), [("fcfs", "ABCD"), ("dfs-weight", "BCAD")])
def test_depth_first_by_weight(policy: Any, expected: str) -> None:
    """B and C wait below the prefix of Q, A alone below that of P, D below none."""
    jobs: Jobs = dict.fromkeys("PQ", (33, 1, 1))
    jobs |= {"A": (40, 1, 1), "B": (41, 1, 1), "C": (42, 1, 1), "D": (9, 1, 1)}
    more = {"P": ids(1, 2, 90), "Q": ids(3, 4, 91), "D": ids(8)}
    more |= {"A": ids(1, 2, 5), "B": ids(3, 4, 6), "C": ids(3, 4, 7)}
    lines = run(
        SglangScheduler(policy=policy),
        jobs,
        dict.fromkeys("ABCD", 2),
        pool=300,
        more=more,
        prefix_caching=True,
    )
    assert lines[0] == "P33 Q33 used 66"
    assert order(lines[1:]) == list(expected)


def test_depth_first_visits_longer_prefixes_first_and_equal_weights_by_age() -> None:
    """P and Q share 32 tokens. C waits at their end; A and B each below one of them."""
    jobs: Jobs = {"P": (65, 1, 1), "Q": (65, 1, 1)}
    jobs |= {"C": (33, 1, 1), "B": (66, 1, 1), "A": (66, 1, 1)}
    more = {"P": ids(1, 2, 3, 4, 90), "Q": ids(1, 2, 5, 6, 91), "C": ids(1, 2, 92)}
    more |= {"A": ids(1, 2, 3, 4, 93), "B": ids(1, 2, 5, 6, 94)}
    lines = run(
        SglangScheduler(policy="dfs-weight"),
        jobs,
        dict.fromkeys("ABC", 3),
        pool=400,
        more=more,
        prefix_caching=True,
    )
    assert order(lines[1:]) == ["A", "B", "C"]


def test_highest_limit_first() -> None:
    jobs = {"A": (4, 1, 5), "B": (4, 1, 9), "C": (4, 1, 7)}
    assert order(run(SglangScheduler(policy="lof"), jobs, pool=100)) == ["B", "C", "A"]


@pytest.mark.parametrize(
    ("version", "waiting", "is_last"),
    [("0.4.6", 128, True), ("0.4.6", 129, False), ("0.3.2", 129, True)],
)
def test_lpm_gives_way_when_many_wait(version: Any, waiting: int, is_last: bool) -> None:
    """The last of the waiting requests finds its prefix in the cache."""
    scheduler = SglangScheduler(version, "lpm", max_num_seqs=1)
    engine = make_engine(scheduler, 9000, block_tokens=1, prefix_caching=True)
    seq = engine.submit(request(0, 50, 0, max_tokens=9, **ids(1, 2, 3, 4)), 0.0)
    plan = engine.plan(0.0)
    assert plan is not None
    engine.complete(plan, Outcome(1.0, [1.0], [seq]))
    for place in range(1, waiting + 1):
        more = ids(1, 2, 3, 5) if place == waiting else {}
        engine.submit(request(place, 50, 0, 1.0, max_tokens=9, **more), 1.0)
    plan = engine.plan(1.0)
    assert plan is not None
    assert [chunk.sequence.request.index for chunk in plan.chunks] == [waiting if is_last else 1]


# -- the cache ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "chunk"), [(2, 5), (20, 36)])
def test_the_cache_keeps_a_retracted_prompt_unless_its_room_is_wanted(
    steps: int, chunk: int
) -> None:
    """B leaves 31 cached tokens and 5 free ones: enough for 2 steps of A, not for 20."""
    jobs = {"A": (30, 8, 8), "B": (31, 8, 8)}
    scheduler = SglangScheduler(clip_new_tokens=2, retract_decode_steps=steps)
    more = {"A": ids(1, 2), "B": ids(3, 4)}
    lines = run(scheduler, jobs, pool=70, more=more, prefix_caching=True)
    assert lines[5:9] == ["-B A used 35", "A used 36", "A used 37", f"B{chunk} used 36"]


def test_a_finished_request_leaves_prompt_and_answer() -> None:
    """All but the last token of the answer, which is never processed."""
    engine = make_engine(SglangScheduler(), 100, block_tokens=1, prefix_caching=True)
    driver = BlockingDriver(engine, [request(0, 20, 0, max_tokens=8, **ids(1, 2))], [8])
    driver.run()
    assert engine.pool.cached == 27


# -- whole runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.4.6", "0.4.1", "0.3.2"])
def test_every_request_of_the_sample_ends_once(version: Any) -> None:
    """In 3,000 tokens many prompts can never run, and some answers outgrow the pool."""
    trace = read_trace(REPOSITORY / "traces/samples/mixed.jsonl")
    requests, outputs = trace.requests[:400], trace.output_tokens[:400]
    events: list[Any] = []
    engine = make_engine(
        SglangScheduler(version, clip_new_tokens=64),
        3000,
        memory=RadixMemory(),
        block_tokens=1,
        prefix_caching=True,
        sink=events.append,
    )
    simulate(engine, requests, Oracle(outputs))
    ends = {event[2]: event for event in events if event[1] in ("finish", "reject", "fail")}
    assert len(ends) == sum(e[1] in ("finish", "reject", "fail") for e in events) == 400
    assert sum(seq.preemptions for seq in engine.recorder.sequences) > 10
    for seq in engine.recorder.sequences:
        total = seq.request.prompt_tokens + outputs[seq.request.index]
        if seq.end_reason == "prompt_too_long":
            assert seq.request.prompt_tokens >= 3000 - 1 - (0 if version == "0.3.2" else 5)
        elif seq.end_reason == "answer_exceeds_kv_capacity":
            assert total > 3000
        else:
            assert seq.outcome == "finished"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_num_seqs": 0}, "max_num_seqs: expected at least 1, got 0"),
        ({"chunked_prefill_tokens": 3}, "expected 0 or a block \\(4\\) at least, got 3"),
        ({"schedule_conservativeness": -1.0}, "expected at least 0, got -1.0"),
        ({"retract_decode_steps": 0}, "retract_decode_steps: expected at least 1"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_engine(SglangScheduler(**settings), 10)


@pytest.mark.parametrize("chunk_tokens", [8192, 4])
def test_a_prefix_that_only_the_admission_finds_is_not_computed_again(chunk_tokens: int) -> None:
    """The blocks of `vllm_v1` make no tree to be looked at before: C is charged for its whole
    prompt and computes what is left of it, all at once or from chunk to chunk.
    """
    hashes = {"hash_ids": (1, 2, 3, 4, 5, 6, 7, 8, 9, 10), "hash_block_tokens": 1}
    lines = run(
        SglangScheduler(chunked_prefill_tokens=chunk_tokens),
        {"A": (4, 1, 1), "C": (10, 1, 1)},
        {"C": 1},
        pool=40,
        more={"A": {**hashes, "hash_ids": (1, 2, 3, 4)}, "C": hashes},
        memory=VllmV1Memory(),
        prefix_caching=True,
    )
    chunks = [word for line in lines for word in line.split() if word.startswith("C")]
    assert chunks == (["C6"] if chunk_tokens > 6 else ["C4", "C2"])
