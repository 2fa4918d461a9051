"""The scenarios with their blocks and with twice as many, for a short time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import scenario_blocks
from experiments.scenario_blocks import main
from experiments.tables.workloads import blocks


def test_memory_binds_in_one_scenario_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario_blocks, "ARMS", {"priority": ("run.scheduler=priority",)})
    monkeypatch.setattr("sys.argv", ["x", "--duration", "90", "--out", f"{tmp_path}/s.json"])
    assert main() == 0
    summary = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    memory, compute = (summary["arms"]["priority"][f"scenario-{name}"] for name in "mc")
    assert memory["kv_blocks"] == 4096
    assert memory["with_twice_the_blocks"] > 1.1 * memory["batch_tokens_per_s"]
    assert compute["with_twice_the_blocks"] == compute["batch_tokens_per_s"]
    (*_, row) = blocks(summary)
    assert row.startswith("| priority |") and row.endswith("| +0.0 % |")
