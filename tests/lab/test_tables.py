"""Terminal tables: what they show, and which way a difference goes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pages import text
from records import Job, build, large_record
from rich.text import Text

from superinfer.lab.studies.differences import Difference
from superinfer.lab.studies.intervals import Interval
from superinfer.lab.tables import compare_table, summary_table
from superinfer.metrics import summarise


def test_summary_shows_counts_latencies_classes_and_tenants() -> None:
    shown = text(summary_table(summarise(large_record(90, 2000, 20), {"wall_s": 1.5})))
    words = ("worst stall (ms)", "worst wait (ms)", "Jain index", "VTC gap (tokens)", "stall")
    found = ("requests submitted", "SLO attainment (%)", "TTFT", "p999", "chat", "t0", "1.50")
    for word in (*words, *found):
        assert word in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_summary_of_nothing() -> None:
    shown = text(summary_table(summarise(build([], []))))
    assert "requests submitted" in shown
    assert "Class" not in shown


def test_names_are_not_taken_for_markup() -> None:
    jobs = [Job(0, 10, 1, 1, 1, group="[bold]x"), Job(0, 10, 1, 1, 1, group="[/y]")]
    shown = text(summary_table(summarise(build(jobs, []))))
    assert "[bold]x" in shown
    assert "[/y]" in shown
    assert "[red]" in text(compare_table([("[red]", {"rejected": 1})]))


def test_names_cannot_steer_the_terminal() -> None:
    jobs = [Job(0, 10, 1, 1, 1, group="a\nb\x1b[31m"), Job(0, 10, 1, 1, 1, group="\u202e\u540d")]
    shown = text(summary_table(summarise(build(jobs, []))))
    assert r"a\nb\x1b[31m" in shown and "\x1b" not in shown
    assert "\\u202e\u540d" in shown and "\u202e" not in shown
    assert "\x1b" not in text(compare_table([("\x1b[2J", {"rejected": 1})]))


def test_compare_shows_differences_from_the_first() -> None:
    base = {"slo_attainment": 0.5, "p99_ttft_ms": 1000.0, "preemptions": 0, "jain_index": None}
    other = {"slo_attainment": 0.75, "p99_ttft_ms": 1500.0, "preemptions": 4, "jain_index": 0.9}
    shown = text(compare_table([("vllm", base), ("rotating", other)]))
    assert "+25.0 points better" in shown
    assert "+50.0% worse" in shown
    assert "rotating" in shown
    assert "goodput" not in shown, "a metric that no run has is left out"


@pytest.mark.parametrize("others", [1, 9])
def test_rare_ends_are_shown_where_any_run_had_them(others: int) -> None:
    plain = [(f"arm {number}", {"rejected": 1, "failed": 0}) for number in range(others)]
    shown = text(compare_table([*plain, ("x", {"rejected": 1, "failed": 0, "unfinished": 7})]))
    assert "unfinished" in shown and "failed" not in shown and "cancelled" not in shown
    assert "unfinished" not in text(compare_table([*plain, ("x", {"rejected": 1})]))


@pytest.mark.parametrize("others", [1, 9])
def test_hybrids_have_a_mark_and_a_footnote(others: int) -> None:
    settings = {"scheduler": "sglang", "memory": "lru"}
    run = {"run": settings, "hybrid": True, "own_memory": ["radix", "hicache"]}
    plain = [(f"arm {number}", {"rejected": 1}) for number in range(others)]
    shown = " ".join(text(compare_table([*plain, ("[x]", {"rejected": 2, "run": run})])).split())
    assert "[x] *" in shown and "arm 0 *" not in shown
    assert "* A hybrid: sglang with the memory policy lru (its own: radix, hicache)." in shown
    assert "hybrid" not in text(compare_table(plain))


def _found(metric: str, base: float, low: float, high: float) -> Difference:
    interval = Interval(low, high, "paired t", 5)
    return Difference(metric, "b", "a", base + (low + high) / 2, base, interval, ())


def test_intervals_are_in_points_and_below_what_can_be_lost_in_the_metric_s_unit() -> None:
    base = {"slo_attainment": 0.5, "p99_ttft_ms": 1000.0, "median_ttft_ms": 1000.0}
    other = {"slo_attainment": 0.6, "p99_ttft_ms": 500.0, "median_ttft_ms": 500.0}
    found = [
        _found("slo_attainment", 0.5, 0.05, 0.15),
        _found("p99_ttft_ms", 1000.0, -1500.0, 500.0),
        _found("median_ttft_ms", 1000.0, -600.0, -400.0),
    ]
    shown = text(compare_table([("a", base), ("b", other)], found))
    assert "+5.0 to +15.0 points" in shown
    assert "-1,500 to +500.0" in shown
    assert "-60.0 to -40.0%" in shown


def test_many_runs_stand_in_rows() -> None:
    runs = [
        (f"arm{i}", {"slo_attainment": 0.5 + i / 100, "p99_ttft_ms": 1000.0, "preemptions": i})
        for i in range(8)
    ]
    lines = text(compare_table(runs)).splitlines()
    assert max(map(len, lines)) <= 60
    (head,) = (line for line in lines if "Scheduler" in line)
    assert "SLO attainment (%)" in head and "TTFT p99 (ms)" in head and "preemptions" not in head
    place = next(i for i, line in enumerate(lines) if "arm7" in line)
    assert "57.00" in lines[place]
    assert "+7.0 points" in lines[place + 1] and "same" in lines[place + 1]


@pytest.mark.parametrize(
    ("key", "value", "base", "ends", "expected"),
    [
        ("slo_attainment", 0.9, 0.6, None, "90.00\n+30.0 points better"),
        ("slo_attainment", 0.3, 0.6, None, "30.00\n-30.0 points worse"),
        ("p99_ttft_ms", 50.0, 100.0, None, "50.00\n-50.0% better"),
        ("p99_ttft_ms", 50.0, 100.0, (-70.0, 10.0), "50.00\n-50.0% unclear\n-70.0 to +10.0%"),
        ("recompute_tax", 0.2, 0.1, None, "20.00\n+10.0 points worse"),
        ("preemptions", 0, 0, None, "0\nsame"),
        ("p99_itl_ms", 100.01, 100.0, None, "100.0\nsame"),
        ("p99_itl_ms", 100.0, 100.0, (-9.0, 9.0), "100.0\n+0.0% unclear\n-9.0 to +9.0%"),
        ("preemptions", 3, 0, None, "3\n+3 worse"),
        ("preemptions", 3, 0, (1.0, 5.0), "3\n+3 worse\n+1.00 to +5.00"),
        ("jain_index", None, 0.5, None, "-"),
        ("jain_index", 0.5, None, None, "0.500"),
    ],
)
def test_a_difference_stands_below_its_value(
    key: str,
    value: float | None,
    base: float | None,
    ends: tuple[float, float] | None,
    expected: str,
) -> None:
    found = [_found(key, base or 0.0, *ends)] if ends else []
    table = compare_table([("a", {key: base}), ("b", {key: value})], found)
    (cell,) = table.columns[2].cells
    assert Text.from_markup(str(cell)).plain == expected


def test_rich_is_imported_only_to_draw() -> None:
    program = "import sys, superinfer.lab.tables; assert 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
