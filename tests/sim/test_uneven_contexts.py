"""Decodes of unequal contexts: each step takes what the longest one is above the mean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.run import run_simulation
from superinfer.costs import list_profiles
from superinfer.lab.config import load_config
from superinfer.request import Request
from traces.workload import Workload

PER_TOKEN_S = 1e-8
LAYERS = 32


def profile(folder: Path, name: str, *, uneven: bool) -> Path:
    shipped = next(each for each in list_profiles() if each[:2] == ("h100", "llama-3.1-8b"))
    data = json.loads(shipped.path.read_text())
    if uneven:
        table = {"axes": {"sequences": [1, 8]}, "seconds": [PER_TOKEN_S] * 2, "model": None}
        data["kernels"]["attention_uneven"] = table
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


def test_equal_contexts_take_nothing_more(tmp_path: Path) -> None:
    plain = ends(profile(tmp_path, "plain", uneven=False), [500, 500], [50, 50], 0)
    found = ends(profile(tmp_path, "uneven", uneven=True), [500, 500], [50, 50], 0)
    assert found == pytest.approx(plain, rel=1e-12)
