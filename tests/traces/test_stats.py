"""Descriptions of workloads small enough to work out by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from superinfer.request import Request
from traces.stats import trace_stats
from traces.workload import Workload


def stats_of(*requests: dict[str, Any]) -> dict[str, Any]:
    """The description of requests given by the fields that matter."""
    made = [
        Request(**{"request_id": str(i), "prompt_tokens": 10, "max_tokens": 9, **fields})
        for i, fields in enumerate(requests)
    ]
    return trace_stats(Workload(made, list(range(1, len(made) + 1))))


def test_rates_and_gaps() -> None:
    stats = stats_of(*({"arrival_s": t} for t in (1.0, 2.0, 5.0)))
    assert (stats["requests"], stats["duration_s"], stats["rate_per_s"]) == (3, 4.0, 0.75)
    assert stats["cv_interarrival"] == pytest.approx(0.5)


def test_lengths() -> None:
    stats = stats_of(*({"arrival_s": 0.0, "prompt_tokens": n} for n in (1, 2, 9)))
    expected = {"mean": 4.0, "p50": 2.0, "p90": 7.6, "p99": 8.86, "max": 9}
    assert stats["prompt_tokens"] == pytest.approx(expected)
    assert stats["output_tokens"]["mean"] == 2.0


def test_counts() -> None:
    stats = stats_of(
        {"arrival_s": 0.0, "tenant": "a", "session_id": "s"},
        {"arrival_s": 0.0, "tenant": "b", "session_id": "s"},
        {"arrival_s": 0.0, "tenant": "a"},
    )
    assert stats["tenants"] == {"a": 2, "b": 1}
    assert (stats["classes"], stats["sessions"]) == ({"default": 3}, 1)


@pytest.mark.parametrize("requests", [[], [{"arrival_s": 3.0}], [{"arrival_s": 3.0}] * 2])
def test_what_cannot_be_known_is_none(requests: list[dict[str, Any]]) -> None:
    stats = stats_of(*requests)
    assert stats["rate_per_s"] is None
    assert stats["cv_interarrival"] is None
    assert stats["prefix_hit_rate"] is None
    assert json.loads(json.dumps(stats, allow_nan=False)) == stats


def hit_rate(*requests: dict[str, Any]) -> tuple[float, int]:
    """Hit rate and unique blocks of prompts in blocks of four tokens."""
    common = {"arrival_s": 0.0, "hash_block_tokens": 4, "prompt_tokens": 12}
    stats = stats_of(*({**common, **fields} for fields in requests))
    return stats["prefix_hit_rate"], stats["prefix_unique_blocks"]


def test_only_a_leading_run_hits() -> None:
    second = {"hash_ids": (1, 5, 3)}
    assert hit_rate({"hash_ids": (1, 2, 3)}, second) == (1 / 6, 4)


def test_a_request_does_not_hit_itself() -> None:
    assert hit_rate({"hash_ids": (1, 1, 1)}) == (0.0, 1)


def test_namespaces_share_nothing() -> None:
    prompt = {"hash_ids": (1, 2, 3)}
    assert hit_rate(prompt, {**prompt, "namespace": "b"}, prompt) == (1 / 3, 6)


def test_a_partial_block_matches_only_its_own_length() -> None:
    shorter = {"hash_ids": (1, 2, 3), "prompt_tokens": 11}
    assert hit_rate({"hash_ids": (1, 2, 3)}, shorter, shorter) == (5 / 9, 4)
