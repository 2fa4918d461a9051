"""The study of classes that bear more: what its runs share, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import lent_places
from experiments.lent_places import PLACES, TREATMENTS, config_of, main
from experiments.tables.rotation import lent
from sim.workload import load_workload


def test_treatments_get_the_same_requests_and_targets() -> None:
    blocks, load = PLACES[1]
    configs = [config_of(treatment, blocks, load) for treatment in TREATMENTS.values()]
    workloads = [load_workload(config) for config in configs]
    assert {len(workload.requests) for workload in workloads} == {lent_places.REQUESTS}
    arrivals = [[request.arrival_s for request in workload.requests] for workload in workloads]
    assert all(times == arrivals[0] for times in arrivals)
    classes = [config.service_classes()["stream"] for config in configs]
    assert {(each.slo.ttft_s, each.slo.tpot_s) for each in classes} == {(1.0, 0.05)}
    assert [each.max_stall_s for each in classes] == [0.05, None, 1.0, None]
    assert [each.delivery for each in classes] == ["strict", "strict", "strict", "paced"]


def test_what_it_writes_makes_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lent_places, "REQUESTS", 30)
    monkeypatch.setattr(lent_places, "PLACES", ((700, 0.6),))
    command = ["lent_places", "--seeds", "1", "--workers", "1", "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", command)
    assert main() == 0
    found = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    head, _, row = lent(found)
    assert "`max_stall_ms=50` | none stated" in head
    assert row == "| 700, 0.6 | 97 (97) | 100 (100) | 100 (100) | 100 (100) |"
