"""The study of RotaSched: what its arms share, the collapse over a slow link, and its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from experiments.rotasched.__main__ import STUDY
from experiments.rotasched.measures import MEASURES
from experiments.rotasched.settings import (
    ARMS,
    DEFAULT,
    LINK_KV_TOKENS,
    LINK_MODEL,
    LINKS_GB_PER_S,
    REPO,
    ROTATING,
    SWEEPS,
    TUNED,
    VARIANTS,
    config_of,
)
from experiments.scenarios.arms import Arm
from sim.run import build_engine, run_simulation
from sim.studies.arms import WORKLOAD_KEYS
from sim.workload import load_workload
from superinfer.lab.config import Config


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda sweep: str(sweep.model))
def test_every_arm_has_the_same_workload_and_memory(sweep: Any) -> None:
    configs = [config_of(arm, sweep.model, 20.0) for arm in (*ARMS.values(), *VARIANTS.values())]
    memory = []
    for config in configs:
        assert config.workload == configs[0].workload and config.classes == configs[0].classes
        for key in (*WORKLOAD_KEYS, "prefix_caching", "host_memory_gib", "lag", "device"):
            assert getattr(config.run, key) == getattr(configs[0].run, key), key
        engine, cost = build_engine(config)
        memory.append(engine.config.total_blocks * engine.config.block_tokens)
        assert not cost.origin.measured
    assert max(memory) - min(memory) < 32


def short_run(arm: Arm, link_gb_per_s: float) -> tuple[float, int]:
    """Seconds that 100 requests take with a quarter of the memory, and rotations."""
    config = config_of(
        arm,
        LINK_MODEL,
        36.0,
        kv_tokens=LINK_KV_TOKENS // 4,
        link_gb_per_s=link_gb_per_s,
    )
    config = limited(config, 100)
    result = run_simulation(config, load_workload(config))
    table = result.record.table
    assert set(table.state) == {"finished"}
    return float(table.finish_s.max()), int(table.rotations.sum())


def limited(config: Config, requests: int) -> Config:
    run = msgspec.structs.replace(config.run, limit=requests)
    return Config(
        run, config.scheduler, config.memory, config.classes, config.workload, config.notes
    )


def test_the_budget_of_the_public_code_collapses_over_pcie_and_ours_does_not() -> None:
    """All 875 blocks may move in every step: over PCIe in 0.15 s, over NVLink-C2C as long as a step
    takes. `rotating` rotates too, and takes hardly longer over PCIe.
    """
    slow, fast = LINKS_GB_PER_S[0], LINKS_GB_PER_S[-1]
    repo, ours = (
        [short_run(ARMS[name], link) for link in (slow, fast)] for name in (REPO, ROTATING)
    )
    assert repo[0][0] > 3 * repo[1][0]
    assert ours[0][0] < 1.3 * ours[1][0]
    assert ours[0][1] > 0


def numbers(mean: float) -> dict[str, Any]:
    return {m.key: {"mean": mean, "low": mean - 0.1, "high": mean + 0.1} for m in MEASURES}


def test_page_and_picture(tmp_path: Path) -> None:
    """The finding is where the lead over the better vLLM is largest, there against chunked vLLM."""
    points = {name: [numbers(0.9), numbers(0.2)] for name in ARMS}
    points[REPO] = [numbers(0.9), numbers(0.7)]
    points[TUNED] = [numbers(1.0), numbers(0.4)]
    sweep = {"rates_per_s": [10, 20], "arms": points}
    links = {name: [numbers(1.0), numbers(2.0)] for name in ARMS}
    little = {
        "model": "qwen2.5-32b",
        "rate_per_s": 18.0,
        "kv_tokens": 56000,
        "gb_per_s": [25.0, 375.0],
        "arms": links,
    }
    parts = {
        "sweeps": {"qwen2.5-32b": sweep},
        "links": little | {"max_stall_s": 5.0},
        "links_no_stall": little | {"max_stall_s": None},
        "variants": {
            "model": "qwen2.5-32b",
            "rate_per_s": 40.0,
            "arms": {name: numbers(0.5) for name in VARIANTS},
        },
    }
    made_by = {"command": "it", "versions": {"Python": "3.11"}, "source": "abc", "seeds": 3}
    STUDY.write(tmp_path, parts, made_by)
    page = (tmp_path / "results.md").read_text()
    assert "at most +30.0 points of TTFT attainment over the better vLLM, at 20 requests/s" in page
    assert "gives 50 % of the tokens/s" in page
    assert "with a longest pause of 5 s" in page and "with no longest pause stated" in page
    assert f"| {ARMS[DEFAULT].label} | 10 | 90.0 [80.0, 100.0] |" in page
    assert json.loads((tmp_path / "summary.json").read_text())["kind"] == "simulated"
    assert (tmp_path / "rotasched.png").stat().st_size > 10_000
