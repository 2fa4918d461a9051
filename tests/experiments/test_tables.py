"""The tables of results on the pages are those of the recorded results."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from executor.validation.steps import StepGroup
from experiments.tables import registry
from experiments.tables.hardware import correctness
from experiments.tables.memory import cache_study
from experiments.tables.performance import bars
from experiments.tables.registry import RESULTS, ROOT, differing, filled, tables
from experiments.tables.validation import cpu, cpu_steps

PAGE = ROOT / "docs" / "hardware.md"


def test_pages_show_what_was_recorded() -> None:
    """Otherwise: python -m experiments.tables. A place without a table and a table without a place
    are errors, too.
    """
    assert differing() == []


def test_a_changed_figure_is_found_and_put_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "README.md"
    page.write_text("# x\n<!-- table: some -->\n| 1 |\n<!-- end -->\n", encoding="utf-8")
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    monkeypatch.setattr(registry, "RESULTS", tmp_path)
    monkeypatch.setattr(registry, "tables", lambda: {page: {"some": "| 2 |"}})
    assert differing() == [page]
    assert registry.write_pages() == [page]
    assert "| 2 |\n<!-- end -->" in page.read_text(encoding="utf-8")
    assert differing() == []


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
    summary = results["scenarios"]["checks"]["m-ours"]["summary"]
    (line,) = (line for line in tables()[PAGE]["h200 scenarios"].splitlines() if "m-ours" in line)
    assert f"| {summary['mean_ttft_ms']:.1f} (" in line
    assert f"| {summary['slo_attainment']:.1%} |" in line


def test_a_check_that_did_not_end_has_a_row() -> None:
    """And one with an infinite error, which JSON has as a word."""
    well = {"ok": True, "cases": 3, "worst": 0.001, "limit": 0.01}
    dead = {"ok": False, "error": "the process ended with 9"}
    wrong = {"ok": False, "cases": 2, "worst": "inf", "limit": 0.01}
    checks = {"linear": dead, "moe": wrong, "decode-a": well, "decode-b": dead, "decode-c": well}
    data = {"kernels": {"checks": checks}, "graphs": {"checks": {}}}
    lines = list(correctness(SimpleNamespace(data=data)))  # type: ignore[arg-type]
    assert lines[2:] == [
        "| `linear` | 0 | did not end |  |",
        "| `moe` | 2 | inf | 0.01 |",
        "| decode attention | 6 | did not end | 0.01 |",
    ]


def test_a_page_of_results_is_made_of_the_summary_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "simulated" / "fairness"
    study.mkdir(parents=True)
    for name in ("summary.json", "results.md"):
        text = (RESULTS / "simulated" / "fairness" / name).read_text(encoding="utf-8")
        (study / name).write_text(text.replace("Simulated", "Measured"), encoding="utf-8")
    monkeypatch.setattr(registry, "RESULTS", tmp_path)
    monkeypatch.setattr(registry, "tables", dict)
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("", encoding="utf-8")
    assert differing() == [study / "results.md"]
    study.rename(study.with_name("unheard-of"))
    with pytest.raises(LookupError, match="nothing makes the page beside"):
        differing()


def test_a_table_without_a_place_is_an_error() -> None:
    with pytest.raises(KeyError, match="no place for 'h200 decode'"):
        filled("nothing here", {"h200 decode": "x"})


def test_a_place_without_a_table_is_an_error() -> None:
    with pytest.raises(KeyError, match="no table 'misspelt'"):
        filled("<!-- table: misspelt -->\n<!-- end -->\n", {})


def test_bars_are_judged_by_the_recording() -> None:
    found = json.loads((RESULTS / "cpu" / "bench.json").read_text(encoding="utf-8"))
    rows = list(bars(found))
    (row,) = (row for row in rows if "`vllm`, standard" in row)
    assert row.endswith("| met |")
    for case in found["cases"]:
        case["scaled_requests_per_s"] /= 100
    (row,) = (row for row in bars(found) if "`vllm`, standard" in row)
    assert row.endswith("| not yet |")


def test_shares_of_one_policy_stand_side_by_side() -> None:
    rows = [
        {
            "policy": "lfu",
            "capacity_blocks": size,
            "hit_rate": rate,
            "gap_closed": gap,
            "prefill_seconds_saved": 1234.5,
            "cpu_us_per_block": 0.25,
        }
        for size, rate, gap in ((1000, 0.0839, 0.0), (3000, 0.5, -0.00001))
    ]
    assert list(cache_study({"results": rows}))[2] == (
        "| `lfu` | .0839 / .5000 | 0 / .000 | 1,234 / 1,234 | 0.2 / 0.2 |"
    )


def test_a_recorded_run_on_a_cpu_is_shown(tmp_path: Path) -> None:
    assert list(cpu(tmp_path)) == ["No run is recorded yet."]
    assert list(cpu_steps(tmp_path)) == ["No steps are recorded yet."]
    names = ("slo_attainment", "output_throughput", "preemptions", "rotations")
    times = [f"{s}_{t}_ms" for t in ("ttft", "tpot", "e2el") for s in ("mean", "p99")]
    metrics: list[dict[str, Any]] = [
        {"name": name, "service_class": kind, "device": 4.0, "simulated": 5.0}
        for name in (*names, *times)
        for kind in ("", "chat")
    ]
    stick = {"yardstick_s": 0.006, "samples": 90, "median": 1.12, "p5": 0.9, "p95": 1.3}
    group = StepGroup("decodes", "1 to 8", 1200, 2.4, 1.2, 1.3, 0.5)
    data = {
        "command": "python -m experiments.validate_cpu",
        "date": "2026-11-26T15:00:00+00:00",
        "machine": {"name": "A processor", "processors": 2, "threads": 1},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "load_before": 0.1,
        "fit": {"step": {"heldout_mape": 0.06}},
        "yardstick": stick,
        "outcomes": [
            {
                "scheduler": "vllm",
                "metrics": metrics,
                "yardsticks": [stick],
                "steps": [group.row()],
            }
        ],
        "winners": ["best by a: vllm on the device, b simulated (differ)", "best by c: d"],
    }
    (tmp_path / "validate.json").write_text(json.dumps(data), encoding="utf-8")
    text = "\n".join(cpu(tmp_path))
    assert "6.00 ms" in text and "1.12 (`vllm`)" in text
    assert "A processor" in text and "6.0%" in text and "2026-11-26" in text
    assert "| TTFT mean (ms) | 4 | 5 (+25.0%) |" in text
    steps = "| `vllm` | decodes | 1 to 8 | 1,200 | 50.0% | 2.00 | -50.0% | 54.2% |"
    assert list(cpu_steps(tmp_path))[2] == steps
    assert text.endswith("\n\nBest by a: vllm on the device, b simulated (differ). Best by c: d.")
