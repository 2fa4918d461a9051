"""Traces of the real scheduler of vLLM 0.33.0 (`oracle.golden`), step by step, without vLLM.

Each holds a configuration, its requests, and for every step what was scheduled, preempted and
finished and how many blocks were free; with copies to the host also how many blocks that has, and
which loads began. `make oracle` compares fresh random cases live.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from oracle import model
from oracle.cases import Case, Step
from oracle.golden import NAMED, read

FOLDER = Path(__file__).with_name("golden")
TRACES = sorted(FOLDER.glob("*.json"))


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_every_step_is_that_of_vllm(path: Path) -> None:
    case, steps = read(path)
    assert model.run(case) == steps


def test_the_traces_cover_what_can_happen() -> None:
    assert {path.stem for path in TRACES} == set(NAMED)
    seen: Counter[str] = Counter()
    for path in TRACES:
        case, steps = read(path)
        settings = case.settings
        preempted = any(step.preempted for step in steps)
        hits = model.Run(case).engine.recorder.prefix_hit_tokens > 0
        seen += Counter(
            {
                "preempted": preempted,
                "preempted by priority": preempted and settings.policy == "priority",
                "preempted ahead": preempted and settings.async_scheduling,
                "prefix hit": hits,
                "prefix hit, preempted": hits and preempted,
                "no caching": not settings.enable_prefix_caching,
                "watermark": settings.watermark > 0,
                "threshold": settings.long_prefill_token_threshold > 0,
                "whole prompts": not settings.enable_chunked_prefill,
                "first chunk fits": not settings.scheduler_reserve_full_isl,
                **what_the_host_does(case, steps),
            }
        )
    assert len(seen) == 16 and min(seen.values()) >= 3, seen


def what_the_host_does(case: Case, steps: list[Step]) -> dict[str, bool]:
    offload = case.settings.offload
    if offload is None:
        return {}
    assert any(step.loads for step in steps)
    return {
        "lru": offload.eviction_policy == "lru",
        "arc": offload.eviction_policy == "arc",
        "prompts": offload.offload_prompt_only,
        "answers, too": not offload.offload_prompt_only,
        "full": max(step.host_blocks or 0 for step in steps) == offload.host_blocks,
        "slow loads": offload.load_steps > 4,
    }


def test_facts_seen_in_the_real_scheduler() -> None:
    """One null block; the budget passes from a prompt's tail to the next prompts; at the end all
    but the null block is free.
    """
    case, steps = read(FOLDER / "budget.json")
    assert case.settings.num_blocks == 40
    assert [step.scheduled for step in steps[:2]] == [
        {"r000": 256},
        {"r000": 44, "r001": 100, "r002": 74},
    ]
    assert [step.free_blocks for step in steps[:2]] == [23, 8]
    assert model.Run(case).engine.pool.available == 39


def test_only_the_surviving_prefix_hits() -> None:
    """A prompt of 74 tokens shares 64 with finished ones; a long prompt in between took all but
    the first of these blocks, so 58 tokens are left to compute.
    """
    _, steps = read(FOLDER / "shared.json")
    first = {}
    for step in steps:
        for name, tokens in step.scheduled.items():
            first.setdefault(name, tokens)
    assert first["r000"] == 74 and first["r001"] == 10
    assert first["r003"] == 58
