"""The experiments on memory policies: parts of a trace, and what is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import policy_time
from experiments.memory_policies import POLICIES, Row, configured, conversations, measure
from superinfer.lab.config import load_config
from superinfer.request import Request
from traces.workload import Workload


def workload(turns: int = 3, sessions: int = 8) -> Workload:
    """Conversations under one system prompt, turn by turn."""
    requests = [
        Request(
            f"{session}.{turn}",
            20.0 * turn + session,
            512 * (turn + 2),
            16,
            hash_ids=(0, *(100 * (session + 1) + block for block in range(turn + 1))),
            index=turn * sessions + session,
        )
        for turn in range(turns)
        for session in range(sessions)
    ]
    return Workload(requests, [4] * len(requests), "talk")


def test_a_part_has_whole_conversations_at_their_own_times() -> None:
    whole = workload()
    parts = [conversations(whole, part, 3) for part in range(3)]
    assert sorted(r.request_id for part in parts for r in part.requests) == sorted(
        r.request_id for r in whole.requests
    )
    assert [r.request_id for r in parts[1].requests][:4] == ["1.0", "4.0", "7.0", "1.1"]
    assert [r.index for r in parts[1].requests] == list(range(9))
    assert parts[1].requests[3].arrival_s == 21.0


@pytest.mark.parametrize("policy", list(POLICIES))
def test_every_policy_is_measured_on_the_late_requests(policy: str) -> None:
    """All of the second and third turn but their new block comes from the cache: 2 + 3 of 3 + 4."""
    row = measure(Path("none.jsonl"), [workload()], 20.0, "rotating", policy)
    assert isinstance(row, Row) and row.requests == 16
    assert row.hit_rate == pytest.approx(5 / 7, abs=0.02)
    assert 0 < row.ttft_mean_s <= row.ttft_p99_s
    assert f"| {policy} |" in row.line()


def test_the_time_of_the_policy_is_measured() -> None:
    settings = ("run.prefix_caching=true", f"run.memory={policy_time.MEMORY}")
    config = load_config(None, [*settings, "run.kv_blocks=200"])
    share = policy_time.measure("standard", "rotating", config, policy_time.standard(60))
    assert share.requests == 60 and share.calls > 200
    assert 0 < share.policy_s < share.simulated_s and share.share < policy_time.BAR * 50
    assert 0.3 < share.hit_rate <= 0.5  # 256 of 512 tokens, but for the first ones
    assert "standard" in share.line()


def test_the_runs_are_those_of_the_text() -> None:
    run = configured(Path("x.jsonl"), *POLICIES["slo_aware"]).run
    assert (run.model, run.device, run.memory) == ("llama-3.1-8b", "a100-80g", "slo_aware")
