"""The cache study: published figures of a public trace, and its arithmetic on small ones."""

from __future__ import annotations

import pytest
from public_data import needed

from superinfer.costs import Chunk, RooflineCost, build_cost
from superinfer.errors import ConfigError
from superinfer.lab.studies.cache_study import (
    CHUNK_TOKENS,
    CacheStudy,
    cache_study,
    check_policies,
    prefill_table,
    study_json,
    study_table,
)
from superinfer.memory.orders import ORDERS
from superinfer.request import Request
from traces.generate import generate, load_spec
from traces.readers import read_trace

MOONCAKE = "traces/mooncake/conversation_trace.jsonl.gz"
SIZES = (1000, 3000, 10_000)


def cost() -> RooflineCost:
    found = build_cost("llama-3.1-8b", "a100-80g", costs="roofline")
    assert isinstance(found, RooflineCost)
    return found


def conversation(share: float) -> CacheStudy:
    return cache_study(read_trace(needed(MOONCAKE), spread=True).requests, share, cost())


def rates(study: CacheStudy, policies: tuple[str, ...]) -> dict[tuple[str, int], float]:
    return {
        (row.policy, row.capacity_blocks): row.hit_rate for row in study.outcomes(policies, SIZES)
    }


def test_published_rates_of_mooncake_conversation() -> None:
    study = conversation(0.0)
    assert (len(study.requests), study.blocks()) == (12_031, 288_500)
    found = rates(study, ("lru", "lfu", "belady"))
    published = {
        "lru": (0.045, 0.065, 0.212),
        "lfu": (0.082, 0.118, 0.188),
        "belady": (0.191, 0.295, 0.366),
    }
    for policy, expected in published.items():
        for size, rate in zip(SIZES, expected, strict=True):
            # 0.29446 is published as 0.295: rounded twice.
            assert found[policy, size] == pytest.approx(rate, abs=0.00055), (policy, size)


@pytest.mark.slow
def test_the_learned_policy_beats_the_others_on_the_second_half() -> None:
    rows = conversation(0.5).outcomes(tuple(ORDERS), SIZES)
    closed = {(row.policy, row.capacity_blocks): row.gap_closed or 0.0 for row in rows}
    # docs/memory.md has .302, .353 and .236; another BLAS may round otherwise.
    for size, bar in zip(SIZES, (0.29, 0.34, 0.22), strict=True):
        assert closed["slo_aware", size] >= bar
        others = [name for name in ORDERS if name not in ("belady", "slo_aware")]
        assert closed["slo_aware", size] > max(closed[name, size] for name in others)


@pytest.mark.parametrize(
    ("spec", "capacity", "seed"),
    [("agent", 1500, 4), ("agent", 3000, 1), ("chat", 500, 3), ("chat", 1000, 1), ("code", 500, 1)],
)
def test_values_that_would_lose_are_not_followed(spec: str, capacity: int, seed: int) -> None:
    """There LRU hits nearly all that can be hit, and the learned order 3 to 12 points less."""
    study = cache_study(generate(load_spec(spec), seed).requests, 0.0, cost())
    lru, guarded = study.outcomes(("lru", "slo_aware"), (capacity,))
    assert guarded.hit_rate == lru.hit_rate
    assert guarded.notes == ("by age throughout: by value it would hit no more",)


@pytest.mark.parametrize(("capacity", "points"), [(500, -1.0), (1000, 1.0), (3000, -1.0)])
def test_values_are_followed_where_they_win(capacity: int, points: float) -> None:
    """A mixture: by value it is 0.9 points less, 1.4 points more and 0.2 points less."""
    study = cache_study(generate(load_spec("mixed"), 3).requests, 0.0, cost())
    lru, guarded = study.outcomes(("lru", "slo_aware"), (capacity,))
    assert guarded.hit_rate >= lru.hit_rate + 0.01 * points


def asked(*prompts: tuple[int, ...]) -> list[Request]:
    return [
        Request(str(i), float(i), 512 * len(ids) - 12, 1, hash_ids=ids)
        for i, ids in enumerate(prompts)
    ]


def test_gap_and_rates_by_hand() -> None:
    # Of 5 blocks LRU hits none and the bound two; LFU keeps 1 for its two uses.
    study = cache_study(asked((1,), (2,), (3,), (1,), (2,)), 0.0, cost())
    lru, bound = study.outcomes(("lru", "belady"), (2,))
    assert (lru.hit_rate, lru.gap_closed, lru.prefill_seconds_saved) == (0.0, 0.0, 0.0)
    assert (bound.hit_rate, bound.gap_closed) == (0.4, 1.0)
    assert bound.prefill_seconds_saved == pytest.approx(2 * study.saved_s(500))


def test_hits_before_the_counted_ones_do_not_count() -> None:
    study = cache_study(asked((1, 2), (1, 2), (1, 2), (3, 4)), 0.5, cost())
    (row,) = study.outcomes(("lru",), (10,))
    assert (row.hit_rate, row.gap_closed) == (0.5, None)
    assert study.blocks() == 4


def test_saved_seconds_are_those_of_chunks_from_the_beginning() -> None:
    table = prefill_table(cost(), 5000)
    first = cost().step_s([Chunk(CHUNK_TOKENS, 0)], 0, 0)
    second = cost().step_s([Chunk(CHUNK_TOKENS, CHUNK_TOKENS)], 0, 0)
    assert table(0) == 0.0
    assert table(CHUNK_TOKENS) == pytest.approx(first)
    assert table(CHUNK_TOKENS * 3 // 2) == pytest.approx(first + second / 2)


def test_prompts_without_ids_and_of_two_sizes() -> None:
    with pytest.raises(ConfigError, match="hash_ids of one block size, got none"):
        cache_study([Request("a", 0.0, 10, 1)], 0.0, cost())
    mixed = asked((1,), (2,))
    mixed[1].hash_block_tokens = 64
    with pytest.raises(ConfigError, match="of one block size, got 64, 512"):
        cache_study(mixed, 0.0, cost())


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=r"expected package\.module:Class or some of lru, .*, got 'mru'",
    ):
        check_policies(["lru", "mru"])
    with pytest.raises(ConfigError, match=r"--policies: expected package\.module:Class or some"):
        check_policies([])


def test_json_and_table_tell_the_same() -> None:
    study = cache_study(asked((1,), (1,)), 0.0, cost())
    outcomes = study.outcomes(("lru",), (1, 2))
    found = study_json(study, "t", outcomes)
    assert (found["counted_requests"], found["counted_blocks"], found["block_tokens"]) == (
        2,
        2,
        512,
    )
    assert [row["capacity_blocks"] for row in found["results"]] == [1, 2]
    assert {"policy", "hit_rate", "gap_closed", "prefill_seconds_saved"} <= set(found["results"][0])
    assert study_table(outcomes).row_count == 2
