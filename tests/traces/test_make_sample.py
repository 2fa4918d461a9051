"""The bundled sample: made by the script that ships with it, and loaded as it claims."""

from __future__ import annotations

import subprocess
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from superinfer.request import Request
from traces import samples_dir
from traces.convert import native_bytes
from traces.make_sample import BLOCK_TOKENS, DURATION_S, make_sample
from traces.readers import read_trace
from traces.stats import trace_stats
from traces.workload import Workload

SAMPLE = samples_dir() / "mixed.jsonl"
A100_PREFILL_TOKENS_PER_S = 13_000


@pytest.fixture(scope="module")
def sample() -> Workload:
    return read_trace(SAMPLE)


def of_class(sample: Workload, name: str) -> list[Request]:
    """The sample's requests of one class."""
    return [request for request in sample.requests if request.slo_class.name == name]


def test_the_script_gives_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    command = [sys.executable, "-m", "traces.make_sample", str(path)]
    subprocess.run(command, check=True, cwd=SAMPLE.parents[2])
    assert path.read_bytes() == SAMPLE.read_bytes()


def test_seeds_matter() -> None:
    assert native_bytes(make_sample(1)) != SAMPLE.read_bytes()


def test_the_file_is_small_and_ten_minutes_long(sample: Workload) -> None:
    assert SAMPLE.stat().st_size < 700_000
    assert 1_400 < len(sample.requests) < 1_850
    assert 590 < sample.requests[-1].arrival_s < DURATION_S
    assert (sample.raised_max_tokens, sample.warnings) == (0, [])


def test_it_keeps_an_a100_busy(sample: Workload) -> None:
    tokens = sum(request.prompt_tokens for request in sample.requests)
    assert 0.55 < tokens / A100_PREFILL_TOKENS_PER_S / DURATION_S < 0.70


@pytest.mark.parametrize(
    ("name", "prompt_tokens", "output_tokens"),
    [("chat", 1000, 200), ("code", 2000, 30), ("batch", 3000, 500)],
)
def test_lengths_of_each_class(
    sample: Workload, name: str, prompt_tokens: int, output_tokens: int
) -> None:
    requests = of_class(sample, name)
    answers = [sample.output_tokens[request.index] for request in requests]
    mean_prompt = np.mean([request.prompt_tokens for request in requests])
    assert mean_prompt == pytest.approx(prompt_tokens, rel=0.15)
    assert np.mean(answers) == pytest.approx(output_tokens, rel=0.15)


def test_prompts_are_shared_and_tenants_several(sample: Workload) -> None:
    stats = trace_stats(sample)
    assert 0.35 < stats["prefix_hit_rate"] < 0.6
    assert len(stats["tenants"]) == 5
    assert stats["cv_interarrival"] > 1.5


def test_a_turn_begins_with_the_turn_before_and_its_answer(sample: Workload) -> None:
    chats = sorted(of_class(sample, "chat"), key=lambda request: str(request.session_id))
    followed = 0
    for _, turns in groupby(chats, key=lambda request: request.session_id):
        before: Request | None = None
        for turn in turns:
            if before is not None:
                assert_continues(before, turn, sample.output_tokens[before.index])
                followed += 1
            before = turn
    assert followed > 200


def assert_continues(before: Request, turn: Request, answer_tokens: int) -> None:
    """The full blocks of a prompt must begin the next one, which is longer than the answer."""
    shared = before.prompt_tokens // BLOCK_TOKENS
    assert turn.hash_ids[:shared] == before.hash_ids[:shared]
    assert turn.prompt_tokens > before.prompt_tokens + answer_tokens


def test_block_ids_are_chained(sample: Workload) -> None:
    parents: dict[int, int] = {}
    for request in sample.requests:
        for parent, block in zip((-1, *request.hash_ids), request.hash_ids, strict=False):
            assert parents.setdefault(block, parent) == parent
