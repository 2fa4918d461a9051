"""Decodes of unequal contexts: each step takes what the longest one is above the mean."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sim.run import run_simulation
from superinfer.costs import list_profiles
from superinfer.lab.config import load_config
from superinfer.request import DEFAULT_CLASS, Request
from traces.workload import Workload

PER_TOKEN_S = 1e-8
LAYERS = 32
SHRINKING = replace(DEFAULT_CLASS, min_kv_bits=4)


def profile(folder: Path, name: str, *, uneven: bool, busy: float = 0.0) -> Path:
    shipped = next(each for each in list_profiles() if each[:2] == ("h100", "llama-3.1-8b"))
    data = json.loads(shipped.path.read_text())
    if uneven:
        table = {"axes": {"sequences": [1, 8]}, "seconds": [PER_TOKEN_S] * 2, "model": None}
        data["kernels"]["attention_uneven"] = table
    if busy:
        table = {"axes": {"sequences": [1, 8]}, "seconds": [busy] * 2, "model": None}
        data["kernels"]["attention_busy"] = table
    path = folder / f"{name}.json"
    path.write_text(json.dumps(data))
    return path


def ends(costs: Path, prompts: list[int], answers: list[int], lag: int) -> list[float]:
    requests = [Request(f"r{i}", 0.0, tokens, 500, index=i) for i, tokens in enumerate(prompts)]
    config = load_config(
        None,
        trace="made up",
        scheduler="vllm_v1",
        memory="vllm_v1",
        device="h100",
        costs=str(costs),
        lag=lag,
    )
    record = run_simulation(config, Workload(requests, answers)).record
    return record.table.finish_s.tolist()


@pytest.mark.parametrize("lag", [0, 1])
def test_the_longest_member_counts_until_it_leaves(tmp_path: Path, lag: int) -> None:
    """Prompts of 1,000, 400 and 100; the longest ends after 40 tokens, the others after 100."""
    prompts, answers = [1000, 400, 100], [40, 100, 100]
    plain = ends(profile(tmp_path, "plain", uneven=False), prompts, answers, lag)
    found = ends(profile(tmp_path, "uneven", uneven=True), prompts, answers, lag)
    above, later = (tokens * PER_TOKEN_S * LAYERS for tokens in (1000 - 500, 400 - 250))
    assert found[0] - plain[0] == pytest.approx(39 * above, rel=1e-6)
    # With lag 1 it gets a step more, which is planned before anybody knows that it has ended.
    more = (39 + lag) * above + (60 - lag) * later
    assert found[1] - plain[1] == pytest.approx(more, rel=1e-6)
    assert found[1] == found[2]


@pytest.mark.parametrize("lag", [0, 1])
def test_what_the_longest_adds_shrinks_while_all_grow(tmp_path: Path, lag: int) -> None:
    """As long as one context is above 1.9 mean ones: by 50 tokens, and 0.9 less each step."""
    prompts, answers = [1000, 400, 100], [100, 100, 100]
    plain = ends(profile(tmp_path, "plain", uneven=False), prompts, answers, lag)
    path = profile(tmp_path, "busy", uneven=True, busy=1.9 * PER_TOKEN_S)
    found = ends(path, prompts, answers, lag)
    above = [max(0.0, 1000 + k - 1.9 * (500 + k)) for k in range(1, 100)]
    assert 0 < sum(above) < 99 * 50
    assert found[0] - plain[0] == pytest.approx(sum(above) * PER_TOKEN_S * LAYERS, rel=1e-6)


def test_equal_contexts_take_nothing_more(tmp_path: Path) -> None:
    plain = ends(profile(tmp_path, "plain", uneven=False), [500, 500], [50, 50], 0)
    found = ends(profile(tmp_path, "uneven", uneven=True), [500, 500], [50, 50], 0)
    assert found == pytest.approx(plain, rel=1e-12)


def shrunk_ends(costs: Path, lengths: list[int]) -> tuple[list[float], float]:
    """Ends of requests whose caches lose bits, and the mean bits of these."""
    requests = [
        Request(f"r{i}", 0.0, tokens, 500, slo_class=SHRINKING, index=i)
        for i, tokens in enumerate(lengths)
    ]
    config = load_config(
        None,
        [
            "memory.shrink_8_at=0.1",
            "memory.shrink_4_at=0.2",
            "scheduler.chunked=false",
            "scheduler.max_num_batched_tokens=8192",
        ],
        trace="made up",
        scheduler="vllm",
        memory="slo_aware",
        device="h100",
        costs=str(costs),
        kv_blocks=sum(lengths) // 8,
    )
    record = run_simulation(config, Workload(requests, [60] * len(lengths))).record
    return record.table.finish_s.tolist(), float(record.table.kv_bits.mean())


def test_contexts_of_fewer_bits_are_no_shorter(tmp_path: Path) -> None:
    """What is read faster counts for its time in `context_tokens`, and in whole in the mean."""
    plain, uneven = (profile(tmp_path, f"{x}", uneven=x) for x in (False, True))
    found, bits = shrunk_ends(uneven, [500] * 8)
    assert bits < 8
    assert found == pytest.approx(shrunk_ends(plain, [500] * 8)[0], rel=1e-12)


def test_unequal_contexts_of_fewer_bits_take_more(tmp_path: Path) -> None:
    plain, uneven = (profile(tmp_path, f"{x}", uneven=x) for x in (False, True))
    lengths = [900, *[500] * 7]
    more_s = shrunk_ends(uneven, lengths)[0][0] - shrunk_ends(plain, lengths)[0][0]
    assert more_s == pytest.approx(59 * (900 - 550) * PER_TOKEN_S * LAYERS, rel=1e-6)
