"""The sweep of the dial: a whole grid, its front, and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.dial.__main__ import STUDY, config_at, grid, sweep
from experiments.dial.plot import PICTURE
from experiments.studykit.run_cache import RunCache
from superinfer.lab.studies.pareto import pareto_front


def test_the_grid_goes_from_corner_to_corner() -> None:
    points = grid()
    assert len(points) == 21
    assert all(sum(point.values()) == pytest.approx(1.0) for point in points)
    corners = [point for point in points if 1.0 in point.values()]
    assert [max(point, key=lambda name: point[name]) for point in corners] == [
        "quality",
        "speed",
        "cost",
    ]


def test_a_point_is_run_with_the_dial() -> None:
    config = config_at({"cost": 0.5, "speed": 0.5, "quality": 0.0}, 2.0)
    assert config.run.memory == "slo_aware"
    assert config.scheduler["memory_share"] == 1.0
    assert config.memory["shrink_8_at"] == 0.0


def test_the_front_by_hand() -> None:
    results = [(1, 5, 1), (2, 4, 1), (1, 4, 1), (2, 4, 1), (0, 0, 2), (2, 3, 0)]
    assert pareto_front(results) == {0, 1, 3, 4}


@pytest.mark.slow
def test_the_sweep_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.scenarios.settings.DURATION_S", 60)
    monkeypatch.setattr("experiments.scenarios.settings.WINDOW_S", (10, 60))
    monkeypatch.setattr("experiments.dial.__main__.PARTS", 1)
    found = sweep(RunCache(tmp_path / "runs", 1), 2.0, range(1))
    rests_on: dict[str, Any] = {"command": "x", "versions": {}, "source": "s", "profile": "p"}
    STUDY.write(tmp_path, found, rests_on)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(summary["points"]) == 3 and any(point["front"] for point in summary["points"])
    assert (tmp_path / "results.md").read_text().count("| yes |") >= 1
    assert (tmp_path / PICTURE).stat().st_size > 10_000
