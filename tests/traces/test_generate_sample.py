"""The bundled trace `mixed.jsonl`: made from the bundled specification, and loaded as it claims."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import superinfer_sim
from public_data import REPOSITORY

from superinfer.request import Request
from traces.readers import read_trace
from traces.stats import trace_stats
from traces.workload import Workload

SAMPLE = REPOSITORY / "traces/samples/mixed.jsonl"
DURATION_S = 600.0
A100_PREFILL_TOKENS_PER_S = 13_000


@pytest.fixture(scope="module")
def sample() -> Workload:
    return read_trace(SAMPLE)


def of_class(sample: Workload, name: str) -> list[Request]:
    """The sample's requests of one class."""
    return [request for request in sample.requests if request.slo_class.name == name]


def test_the_specification_gives_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    arguments = ["generate", "mixed", "--seed", "0", "-o", str(path)]
    assert superinfer_sim("traces", *arguments).exit_code == 0
    assert path.read_bytes() == SAMPLE.read_bytes()


def test_the_file_is_small_and_ten_minutes_long(sample: Workload) -> None:
    assert SAMPLE.stat().st_size < 700_000
    assert 1_700 < len(sample.requests) < 1_900
    assert 590 < sample.requests[-1].arrival_s < DURATION_S
    assert (sample.raised_max_tokens, sample.warnings) == (0, [])


def test_it_keeps_an_a100_busy(sample: Workload) -> None:
    tokens = sum(request.prompt_tokens for request in sample.requests)
    assert 0.55 < tokens / A100_PREFILL_TOKENS_PER_S / DURATION_S < 0.70


@pytest.mark.parametrize(
    ("name", "prompt_tokens", "output_tokens"),
    [("chat", 1000, 200), ("code", 2000, 30), ("batch", 3400, 500)],
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
