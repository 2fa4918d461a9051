"""The measured tables of the pages are those of the recorded results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from experiments.hardware_tables import PAGE, RESULTS, cpu, filled, tables


@pytest.mark.parametrize("page", list(tables()), ids=lambda page: page.name)
def test_pages_show_what_was_recorded(page: Path) -> None:
    """Otherwise: python -m experiments.hardware_tables."""
    text = page.read_text(encoding="utf-8")
    assert filled(text, tables()[page]) == text


def test_every_place_on_a_page_has_its_table() -> None:
    for page, found in tables().items():
        names = re.findall(r"<!-- ((?:h200|cpu)[^>]*) -->", page.read_text(encoding="utf-8"))
        assert sorted(names) == sorted(found)


def test_cells_are_the_numbers_of_the_recording() -> None:
    """A few by hand, so that a table cannot be wrong in the same way twice."""
    results = json.loads((RESULTS / "h200" / "results.json").read_text(encoding="utf-8"))
    rows = results["floors"]["checks"]["decode"]["rows"]
    (row,) = (r for r in rows if r["point"] == "decode B=32 ctx=8192 kv=8")
    shown = f"{row['seconds'] * 1e3:.2f} ({row['share_of_floor']:.0%})"
    (line,) = (line for line in tables()[PAGE]["h200 decode"].splitlines() if "32 x 8,192" in line)
    assert line.split(" | ")[2] == shown
    copies = results["floors"]["checks"]["swap"]["rows"]
    assert f"| {copies[2]['bytes_per_s'] / 1e9:.1f} |" in tables()[PAGE]["h200 swaps"]
    device = results["run"]["checks"]["rotating"]["summary"]["mean_ttft_ms"]
    assert f"| {device:,.0f} |" in tables()[PAGE]["h200 validation"]


def test_a_table_without_a_place_is_an_error() -> None:
    with pytest.raises(KeyError, match="no place for 'h200 decode'"):
        filled("nothing here", {"h200 decode": "x"})


def test_a_recorded_run_on_a_cpu_is_shown(tmp_path: Path) -> None:
    assert list(cpu(tmp_path)) == ["No run is recorded yet."]
    names = ("slo_attainment", "output_throughput", "preemptions", "rotations")
    times = [f"{s}_{t}_ms" for t in ("ttft", "tpot", "e2el") for s in ("mean", "p99")]
    metrics: list[dict[str, Any]] = [
        {"name": name, "service_class": kind, "device": 4.0, "simulated": 5.0}
        for name in (*names, *times)
        for kind in ("", "chat")
    ]
    stick = {"yardstick_s": 0.006, "samples": 90, "median": 1.12, "p5": 0.9, "p95": 1.3}
    data = {
        "command": "python -m experiments.validate_cpu",
        "date": "2026-11-26T15:00:00+00:00",
        "machine": {"name": "A processor", "processors": 2, "threads": 1},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "load_before": 0.1,
        "fit": {"step": {"heldout_mape": 0.06}},
        "yardstick": stick,
        "outcomes": [{"scheduler": "vllm", "metrics": metrics, "yardsticks": [stick]}],
    }
    (tmp_path / "validate.json").write_text(json.dumps(data), encoding="utf-8")
    text = "\n".join(cpu(tmp_path))
    assert "6.00 ms" in text and "1.12 (`vllm`)" in text
    assert "A processor" in text and "6.0%" in text and "2026-11-26" in text
    assert "| TTFT mean (ms) | 4 | 5 (+25.0%) |" in text
