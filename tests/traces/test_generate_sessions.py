"""Sessions, groups, backlogs and shared prompts of generated workloads."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from estimates import SEEDS, assert_agree, assert_share
from specs import document, workload, write_spec

from superinfer.errors import ConfigError
from superinfer.request import Request
from traces.convert import native_bytes
from traces.generate import generate, load_spec
from traces.stats import trace_stats
from traces.workload import Workload

BLOCK = 64
TALK: dict[str, Any] = {
    "rate_per_s": 2.0,
    "prompt": {"family": "uniform", "min": 1, "max": 150},
    "answer": {"family": "uniform", "min": 1, "max": 90},
    "system_prompts": [{"tokens": 200, "tenant": "a"}, {"tokens": 128, "tenant": "b"}],
    "session": {"turns": 4, "think_s": {"family": "gamma", "mean": 5}},
}
SYSTEM_TOKENS = {"a": 200, "b": 128}


def talk(**session: Any) -> dict[str, Any]:
    """The client of these tests with other session settings."""
    return {**TALK, "session": {**TALK["session"], **session}}


def sessions_of(made: Workload) -> list[list[Request]]:
    """The turns of each session, in order."""
    found: defaultdict[str, list[Request]] = defaultdict(list)
    for request in made.requests:
        if request.session_id is not None:
            found[request.session_id].append(request)
    return list(found.values())


def turn_pairs(made: Workload) -> list[tuple[Request, Request]]:
    """All turns with their followers."""
    return [pair for turns in sessions_of(made) for pair in pairwise(turns)]


def test_a_prompt_holds_all_that_came_before(tmp_path: Path) -> None:
    made = workload(tmp_path, talk=TALK)
    pairs = turn_pairs(made)
    assert len(pairs) > 80
    for before, turn in pairs:
        added = turn.prompt_tokens - before.prompt_tokens - made.output_tokens[before.index]
        assert 1 <= added <= 150
        shared = before.prompt_tokens // BLOCK
        assert turn.hash_ids[:shared] == before.hash_ids[:shared]
        assert not set(turn.hash_ids[shared:]) & set(before.hash_ids)


def test_a_history_without_answers(tmp_path: Path) -> None:
    made = workload(tmp_path, talk=talk(history="prompts"))
    for before, turn in turn_pairs(made):
        assert 1 <= turn.prompt_tokens - before.prompt_tokens <= 150
        shared = before.prompt_tokens // BLOCK
        assert turn.hash_ids[:shared] == before.hash_ids[:shared]


def test_no_history_leaves_the_system_prompt_and_the_context(tmp_path: Path) -> None:
    made = workload(tmp_path, talk=talk(history="none", context=1000))
    for before, turn in turn_pairs(made):
        head = SYSTEM_TOKENS[turn.tenant] + 1000
        assert head < turn.prompt_tokens <= head + 150
        assert turn.hash_ids[: head // BLOCK] == before.hash_ids[: head // BLOCK]
        assert not set(turn.hash_ids[head // BLOCK :]) & set(before.hash_ids)


def test_a_prompt_that_would_be_too_long_drops_the_history(tmp_path: Path) -> None:
    made = workload(tmp_path, talk=talk(turns=12, max_prompt_tokens=600))
    dropped = [pair for pair in turn_pairs(made) if pair[1].prompt_tokens < pair[0].prompt_tokens]
    assert len(dropped) > 5
    assert max(request.prompt_tokens for request in made.requests) <= 600
    for before, turn in dropped:
        shared = SYSTEM_TOKENS[turn.tenant] // BLOCK
        assert turn.hash_ids[:shared] == before.hash_ids[:shared]
        assert not set(turn.hash_ids[shared:]) & set(before.hash_ids)


def test_sessions_share_their_system_prompt_and_nothing_else(tmp_path: Path) -> None:
    made = workload(tmp_path, talk=TALK)
    firsts = [turns[0] for turns in sessions_of(made)]
    for tenant, tokens in SYSTEM_TOKENS.items():
        shared = {first.hash_ids[: tokens // BLOCK] for first in firsts if first.tenant == tenant}
        assert len(shared) == 1
    private = [
        block for turn in firsts for block in turn.hash_ids[SYSTEM_TOKENS[turn.tenant] // BLOCK :]
    ]
    assert len(private) == len(set(private))


def test_an_id_stands_for_one_beginning(tmp_path: Path) -> None:
    made = workload(tmp_path, talk=talk(max_prompt_tokens=600))
    parents: dict[int, int] = {}
    for request in made.requests:
        assert len(request.hash_ids) == -(-request.prompt_tokens // BLOCK)
        for parent, block in zip((-1, *request.hash_ids), request.hash_ids, strict=False):
            assert parents.setdefault(block, parent) == parent
    assert sorted(parents) == list(range(len(parents)))


def test_the_open_form_waits_for_the_answer_and_the_closed_one_says_so(tmp_path: Path) -> None:
    made = workload(tmp_path, talk=talk(first_token_s=2.0, token_s=0.1))
    for before, turn in turn_pairs(made):
        answer_s = 2.0 + (made.output_tokens[before.index] - 1) * 0.1
        assert turn.delay_s is not None
        gap_s = turn.arrival_s - before.arrival_s
        assert gap_s == pytest.approx(answer_s + turn.delay_s, abs=0.0021)


def test_only_the_first_turn_of_a_session_has_no_delay(tmp_path: Path) -> None:
    made = workload(tmp_path, talk=TALK)
    groups = sessions_of(made)
    whole = [turns for turns in groups if turns[0].delay_s is None]
    assert 10 < len(whole) < len(groups)  # others had begun before the trace
    assert all(turn.delay_s is not None for turns in groups for turn in turns[1:])
    assert all(len(turns) < 4 for turns in groups if turns not in whole)
    without = workload(tmp_path, talk=talk(delays=False))
    assert {request.delay_s for request in without.requests} == {None}


@pytest.mark.parametrize("turns", [1, 4, {"family": "geometric", "mean": 3, "max": 6}])
def test_rate_per_s_counts_requests(tmp_path: Path, turns: Any) -> None:
    spec = load_spec(write_spec(tmp_path, document(talk=talk(turns=turns))))
    counts = [len(generate(spec, seed).requests) for seed in SEEDS]
    assert_agree(counts, 200, precision=0.04)
    early = [
        sum(request.arrival_s < 10 for request in generate(spec, seed).requests) for seed in SEEDS
    ]
    assert_agree(early, 20, precision=0.1)  # the steady state is there from the start


def test_sessions_per_s_counts_sessions(tmp_path: Path) -> None:
    client = {key: value for key, value in TALK.items() if key != "rate_per_s"}
    spec = load_spec(write_spec(tmp_path, document(talk={**client, "sessions_per_s": 0.5})))
    counts = [len(generate(spec, seed).requests) for seed in SEEDS]
    assert_agree(counts, 200, precision=0.04)


def test_rate_scale_multiplies_every_rate(tmp_path: Path) -> None:
    spec = load_spec(write_spec(tmp_path, document(talk=TALK)), {"rate_scale": 3.0})
    assert_agree([len(generate(spec, seed).requests) for seed in SEEDS], 600, precision=0.04)


def test_the_prefix_share_of_equal_sessions(tmp_path: Path) -> None:
    """Prompts of 96 + 64 k tokens, k = 0 to 4: the first finds the system prompt's block, and a
    later one the full blocks of the prompt before, which are k.
    """
    fixed = {**TALK, "prompt": 32, "answer": 32, "system_prompts": [{"tokens": 64}]}
    fixed["session"] = {"turns": 5, "think_s": 0.0, "first_token_s": 0.0, "token_s": 0.0}
    made = workload(tmp_path, talk=fixed, duration_s=1000)
    sessions = len(made.requests) // 5
    blocks = sum(-(-(96 + 64 * turn) // 64) for turn in range(5)) * sessions
    hits = (1 + 1 + 2 + 3 + 4) * sessions - 1  # nobody was there before the first
    stats = trace_stats(made)
    assert len(made.requests) == 5 * sessions
    assert stats["prefix_blocks"] == blocks
    assert stats["prefix_hit_rate"] == pytest.approx(hits / blocks)


def test_zipf_popularity(tmp_path: Path) -> None:
    client = {**TALK, "rate_per_s": 50.0, "system_prompts": {"count": 3, "tokens": 64, "zipf": 1.0}}
    del client["session"]
    made = workload(tmp_path, talk=client)
    first: defaultdict[int, int] = defaultdict(int)
    for request in made.requests:
        first[request.hash_ids[0]] += 1
    for number, weight in zip(sorted(first.values(), reverse=True), (6, 3, 2), strict=True):
        assert_share(number, len(made.requests), weight / 11)


def test_a_pool_of_system_prompts_draws_their_lengths(tmp_path: Path) -> None:
    pool = {"count": 40, "tokens": {"family": "uniform", "min": 64, "max": 640}}
    client = {"rate_per_s": 20.0, "prompt": 1, "answer": 1, "system_prompts": pool}
    made = workload(tmp_path, talk=client)
    lengths = {request.prompt_tokens - 1 for request in made.requests}
    assert 30 < len(lengths) <= 40
    assert 64 <= min(lengths) < 160
    assert 550 < max(lengths) <= 640


def test_tenants_by_weight(tmp_path: Path) -> None:
    client = {"rate_per_s": 50.0, "prompt": 1, "answer": 1, "tenants": {"x": 3, "y": 1}}
    stats = trace_stats(workload(tmp_path, talk=client))
    assert_share(stats["tenants"]["x"], stats["requests"], 0.75)
    assert set(stats["tenants"]) == {"x", "y"}


def test_a_group_shares_its_instructions_and_comes_at_once(tmp_path: Path) -> None:
    client = {
        "rate_per_s": 5.0,
        "prompt": 100,
        "answer": 10,
        "system_prompts": {"count": 50, "tokens": 128},
        "group": {"size": {"family": "uniform", "min": 3, "max": 5}, "gap_s": 0.001},
    }
    spec = load_spec(write_spec(tmp_path, document(1000, jobs=client)))
    counts = [len(generate(spec, seed).requests) for seed in SEEDS]
    assert_agree(counts, 5000, precision=0.02)
    made = generate(spec, 0)
    starts = np.flatnonzero(np.diff([request.arrival_s for request in made.requests]) > 0.0015)
    sizes = np.diff(starts)
    assert np.mean((sizes >= 3) & (sizes <= 5)) > 0.9  # the others ran into each other
    assert {request.session_id for request in made.requests} == {None}


def test_a_backlog_is_there_at_once(tmp_path: Path) -> None:
    client = {"requests": 30, "prompt": 100, "answer": 10, "class": "batch", "priority": 2}
    made = workload(tmp_path, jobs=client)
    assert len(made.requests) == 30
    assert {(r.arrival_s, r.priority, r.slo_class.name) for r in made.requests} == {(0, 2, "batch")}
    assert trace_stats(made)["prefix_hit_rate"] == 0


def test_a_declared_limit_ends_answers(tmp_path: Path) -> None:
    client = {"requests": 50, "prompt": 1, "answer": {"family": "gamma", "mean": 500}}
    free = workload(tmp_path, jobs={**client, "class": "code"})
    assert free.raised_max_tokens == sum(answer > 256 for answer in free.output_tokens) > 0
    limited = workload(tmp_path, jobs={**client, "max_tokens": 300, "class": "code"})
    assert limited.output_tokens == [min(answer, 300) for answer in free.output_tokens]
    assert {request.max_tokens for request in limited.requests} == {300}
    assert limited.raised_max_tokens == 0


def test_pairs_are_drawn_together(tmp_path: Path) -> None:
    pairs = [[10, 1], [20, 2], [30, 3]]
    client = {"requests": 3000, "lengths": {"pairs": pairs}}
    made = workload(tmp_path, jobs=client)
    for prompt, answer in pairs:
        both = zip(made.requests, made.output_tokens, strict=True)
        number = sum((r.prompt_tokens, tokens) == (prompt, answer) for r, tokens in both)
        assert_share(number, 3000, 1 / 3)


def test_lengths_of_a_trace_keep_their_pairs(tmp_path: Path) -> None:
    records = [{"timestamp": 0, "input_length": n, "output_length": 2 * n} for n in (7, 9)]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    made = workload(tmp_path, jobs={"requests": 50, "lengths": {"trace": "t.jsonl"}})
    found = {(r.prompt_tokens, a) for r, a in zip(made.requests, made.output_tokens, strict=True)}
    assert found == {(7, 14), (9, 18)}


def test_lengths_of_a_sharegpt_file(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text('{"prompt_len": 5, "output_len": 6}\n')
    made = workload(tmp_path, jobs={"requests": 2, "lengths": {"sharegpt": "s.jsonl"}})
    assert [request.prompt_tokens for request in made.requests] == [5, 5]
    assert made.output_tokens == [6, 6]


def test_a_client_leaves_the_draws_of_others_alone(tmp_path: Path) -> None:
    alone = workload(tmp_path, talk=TALK)
    joined = workload(tmp_path, other={**TALK, "tenant": "z", "system_prompts": []}, talk=TALK)

    def seen(made: Workload) -> list[tuple[Any, ...]]:
        return [
            (r.arrival_s, r.prompt_tokens, r.tenant, r.session_id, made.output_tokens[r.index])
            for r in made.requests
            if r.tenant != "z"
        ]

    assert seen(joined) == seen(alone)
    assert len(joined.requests) > len(alone.requests)


def test_the_seed_decides(tmp_path: Path) -> None:
    made = [
        native_bytes(workload(tmp_path, seed, talk=TALK)) for seed in (0, 0, 1, 2**40, 2**63 - 1)
    ]
    assert made[0] == made[1]
    assert len(set(made)) == 4


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(tmp_path: Path, seed: int) -> None:
    with pytest.raises(ConfigError, match=r"seed: expected an integer from 0 to 2\*\*63 - 1"):
        workload(tmp_path, seed, talk=TALK)
