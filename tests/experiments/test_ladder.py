"""The ladder: rungs that add up to the whole, and a page that says what each is worth."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from experiments.ladder.__main__ import STUDY, climb, loads
from experiments.ladder.plot import PICTURE
from experiments.ladder.settings import OFF, RUNGS, SCENARIOS, config_at, further_rungs
from experiments.ladder.table import page, worth
from experiments.scenarios.arms import ARMS, ROTATING
from experiments.scenarios.measures import DECIDING
from experiments.studykit.run_cache import RunCache
from sim.studies.arms import WORKLOAD_KEYS


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_rung_has_the_same_workload_and_adds_something(scenario: str) -> None:
    configs = [config_at(scenario, arm, 2.0) for arm in further_rungs()]
    for below, above in pairwise(configs):
        assert below.workload == above.workload
        for key in (*WORKLOAD_KEYS, "model", "device", "tp", "prefix_caching"):
            assert getattr(below.run, key) == getattr(above.run, key), key
        different = [
            part
            for part in ("scheduler", "memory", "classes")
            if _of(below, part) != _of(above, part)
        ]
        assert different or below.run.memory != above.run.memory


def _of(config: Any, part: str) -> Any:
    return config.resolved()[part]


def test_the_last_rung_is_the_product_as_it_is() -> None:
    """Nothing that the second rung does without stays away, and all else has its default."""
    *_, last = further_rungs()
    assert not any(key in text for key in OFF for text in last.settings)
    config = config_at("c", last, 2.0)
    whole = config_at("c", replace(ARMS[ROTATING], settings=("run.memory=slo_aware",)), 2.0)
    assert config.resolved()["scheduler"] == whole.resolved()["scheduler"]
    assert config.resolved()["memory"] == whole.resolved()["memory"]
    assert config.classes["batch"]["min_kv_bits"] == 4


def test_loads_are_those_of_the_scenarios() -> None:
    assert {name for name, rate in loads().items() if rate > 1} == set(SCENARIOS)


def test_worth_in_words() -> None:
    def step(*bounds: tuple[float, float]) -> dict[str, Any]:
        return {
            key: {"low": low, "high": high}
            for key, (low, high) in zip(DECIDING, bounds, strict=True)
        }

    none = (-1.0, 1.0)
    assert worth(step(none, none, none, none)) == "nothing that shows"
    # attainment, P99 TTFT, batch tokens/s, peak KV
    found = worth(step((0.1, 0.2), (0.1, 0.2), none, (-2.0, -1.0)))
    assert found == "better: chat attainment, peak KV; worse: chat P99 TTFT"


@pytest.mark.slow
def test_the_ladder_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds of a minute: the files are there, and the page names every rung."""
    monkeypatch.setattr("experiments.scenarios.settings.DURATION_S", 60)
    monkeypatch.setattr("experiments.scenarios.settings.WINDOW_S", (10, 60))
    found = {"c": climb(RunCache(tmp_path / "runs", 1), "c", 2.0, range(2))}
    made_by = {"command": "x", "versions": {"numpy": "1"}, "source": "s", "profile": "p"}
    STUDY.write(tmp_path, {"scenarios": found}, made_by)
    text = page(json.loads((tmp_path / "summary.json").read_text()))
    for rung in RUNGS:
        assert f"| + {rung.name} |" in text
    assert (tmp_path / PICTURE).stat().st_size > 10_000
