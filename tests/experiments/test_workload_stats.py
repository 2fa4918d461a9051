"""What the bundled specifications draw, in short."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import workload_stats
from experiments.tables.workloads import bundled
from experiments.workload_stats import described, main
from sim.workload import load_workload
from superinfer.lab.config import load_config


def test_means_are_over_the_seeds() -> None:
    found = described("video", 2)
    drawn = [
        load_workload(load_config(None, [f"run.seed={seed}"], trace="video")) for seed in (0, 1)
    ]
    sizes = [len(workload.requests) for workload in drawn]
    assert found["requests"] == sum(sizes) / 2
    assert found["requests_deviation"] == pytest.approx(abs(sizes[0] - sizes[1]) / 2**0.5)
    means = [
        sum(workload.output_tokens) / size for workload, size in zip(drawn, sizes, strict=True)
    ]
    assert found["output_tokens"]["mean"] == pytest.approx(sum(means) / 2)
    assert found["chat_per_s"] == 0


def test_the_record_makes_a_row_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload_stats, "SPECS", ("video",))
    monkeypatch.setattr(
        "sys.argv", ["workload_stats", "--seeds", "2", "--out", f"{tmp_path}/s.json"]
    )
    assert main() == 0
    import json

    rows = list(bundled(json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))))
    assert len(rows) == 3
    assert rows[2].startswith("| `video` | frames of 8 tokens")
