"""Bits of the KV cache beside latencies: shown where any request had fewer than 16."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pages import Page, stored, text
from records import Job, build

from superinfer.lab.numbers import mean_summary
from superinfer.lab.report import write_compare_report, write_report
from superinfer.lab.tables import compare_table, precision_table, summary_table
from superinfer.metrics import summarise
from superinfer.records.run import RunRecord

FULL = [Job(0, 90, 10, 1, 2, group="chat"), Job(0, 90, 10, 1, 2, group="batch")]
FEW = [FULL[0], replace(FULL[1], kv_bits=11.0, kv_8_share=0.25, kv_4_share=0.25)]
QUALITY: dict[str, dict[str, float | None]] = {
    "8": {"kl": 1e-5, "perplexity_change": 0.0},
    "4": {"kl": 4e-4, "perplexity_change": 0.00126},
}


def record(jobs: list[Job], quality: Any = None) -> RunRecord:
    made = build(jobs, [])
    made.quality = quality or {}
    return made


def rows(shown: str, first: str) -> list[list[str]]:
    """The cells of the table whose heading begins with `first`."""
    lines = shown.splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith(first))
    return [line.split() for line in lines[start + 2 :] if line.strip()]


def test_classes_show_bits_and_what_they_cost() -> None:
    shown = text(summary_table(summarise(record(FEW, QUALITY))))
    assert max(map(len, shown.splitlines())) <= 80
    assert rows(shown, "KV cache") == [
        ["all", "13.50", "+0.016%", "5.1e-05"],
        ["batch", "11.00", "+0.032%", "1.0e-04"],
        ["chat", "16.00", "+0.000%", "0"],
    ]


def test_what_nobody_measured_is_said_to_be_unmeasured() -> None:
    shown = text(summary_table(summarise(record(FEW))))
    assert rows(shown, "KV cache")[1:] == [
        ["batch", "11.00", "unmeasured", "unmeasured"],
        ["chat", "16.00", "+0.000%", "0"],
    ]


def test_runs_with_16_bits_say_nothing_of_bits(tmp_path: Path) -> None:
    full = summarise(record(FULL))
    assert "KV" not in text(summary_table(full)).replace("peak KV", "")
    assert "KV bits" not in text(compare_table([("a", full), ("b", full)]))
    assert precision_table([("a", full), ("b", full)]) is None
    folders = [(name, stored(tmp_path / name, record(FULL))) for name in ("a", "b")]
    assert "Precision" not in Page(write_report(folders[0][1])).words
    assert "KV bits" not in Page(write_compare_report(folders, tmp_path / "c.html")).words


@pytest.mark.parametrize("arms", [2, 8])
def test_a_comparison_shows_them_run_by_run(arms: int) -> None:
    runs = [("full", summarise(record(FULL)))]
    runs += [(f"few{i}", summarise(record(FEW, QUALITY))) for i in range(arms - 1)]
    shown = text(compare_table(runs), 200)
    assert "KV bits" in shown and "13.50" in shown and "-15.6% worse" in shown
    assert rows(text(precision_table(runs)), "Class")[:2] == [
        ["batch", "full", "16.00", "+0.000%", "0"],
        ["batch", "few0", "11.00", "+0.032%", "1.0e-04"],
    ]
    unmeasured = text(compare_table([runs[0], ("few", summarise(record(FEW)))]))
    assert unmeasured.count("unmeasured") == 2


def test_means_over_seeds_keep_classes_and_words() -> None:
    full, few, unknown = (
        summarise(made) for made in (record(FULL), record(FEW, QUALITY), record(FEW))
    )
    mean = mean_summary([full, few])
    assert mean["classes"]["batch"]["kv_bits_mean"] == 13.5
    assert mean["kv_kl"] == pytest.approx(few["kv_kl"] / 2)
    mean = mean_summary([full, unknown])
    assert mean["kv_kl"] == mean["classes"]["batch"]["kv_kl"] == "unmeasured"
    assert mean["classes"]["chat"]["kv_kl"] == 0.0


def test_pages_show_them(tmp_path: Path) -> None:
    folders = {
        "full": stored(tmp_path / "full", record(FULL)),
        "few": stored(tmp_path / "few", record(FEW)),
        "known": stored(tmp_path / "known", record(FEW, QUALITY)),
    }
    words = Page(write_report(folders["known"])).words
    assert "Precision of the KV cache" in words and "batch 11.00 +0.032% 1.0e-04" in words
    assert "batch 11.00 unmeasured unmeasured" in Page(write_report(folders["few"])).words
    page = Page(write_compare_report(list(folders.items()), tmp_path / "c.html"))
    words = page.words.replace("\u00a0", " ")
    assert "KV bits 16.00 13.50 \N{MINUS SIGN}15.62 % worse 13.50" in words
    assert "expected perplexity +0.000% unmeasured +0.016% expected KL 0 unmeasured 5.1" in words
    assert words.count("unmeasured") == 4
