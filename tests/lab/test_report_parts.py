"""What reports are made of: who was hurt, numbers, differences, markup and pictures."""

from __future__ import annotations

import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from pages import HURT, STEPS, Bounds, loaded
from records import build

from superinfer.lab.changes import change
from superinfer.lab.report.html import Html, tag, text
from superinfer.lab.report.hurt import endings, longest_stalls, who_was_hurt
from superinfer.lab.report.svg import inline_svg
from superinfer.lab.report.values import change_words, number, shown, targets
from superinfer.lab.studies.intervals import Interval
from superinfer.metrics import Window

# -- who was hurt ---------------------------------------------------------------------------------


def test_misses_are_ranked_by_their_factor() -> None:
    hurt = who_was_hurt(loaded(build(HURT, STEPS)))
    found = [(miss.row, miss.kind, miss.factor) for miss in hurt.misses]
    assert found == [
        (1, "ttft_ms", pytest.approx(8)),
        (3, "e2el_ms", pytest.approx(5)),
        (5, "min_tokens_per_s", pytest.approx(5)),
        (0, "ttft_ms", pytest.approx(2)),
    ]
    assert (hurt.misses[2].measured, hurt.misses[2].target) == (pytest.approx(0.8), 4)
    assert hurt.unranked == 2  # class c shares no target


def test_groups_tell_who_and_why() -> None:
    groups = {(g.slo_class, g.tenant): g for g in who_was_hurt(loaded(build(HURT, STEPS))).groups}
    mine = groups["a", "default"]
    assert (mine.requests, mine.with_slo, mine.missed, mine.preempted) == (3, 3, 2, 0)
    assert (mine.median_factor, mine.queue_missed_s) == (pytest.approx(2), pytest.approx(0.5))
    assert mine.queue_met_s == pytest.approx(0.1)
    other = groups["a", "t"]
    assert (other.missed, other.preempted, other.queue_missed_s) == (1, 1, 3)
    assert np.isnan(other.worst_stall_ms)
    assert groups["b", "default"].worst_stall_ms == pytest.approx(6000)


def test_stalls_and_endings() -> None:
    data = loaded(build(HURT, STEPS))
    assert longest_stalls(data, 5) == [3, 5]
    assert longest_stalls(data, 1) == [3]
    assert endings(data) == [("rejected", "too long", "a", 1)]


def test_only_the_measured_window_counts() -> None:
    data = loaded(build(HURT, STEPS), Window(0.5, 2.0))
    assert [miss.row for miss in who_was_hurt(data).misses] == [5]
    assert endings(data) == []
    assert data.latency_curve("a", "ttft")[0].size == 0


# -- parts ----------------------------------------------------------------------------------------


def test_numbers_and_units() -> None:
    assert [number(x) for x in (0, 7, 1234567, 0.12345, 1.2345, 123.45, 1234.5, 500.0)] == [
        "0", "7", "1,234,567", "0.123", "1.23", "123.5", "1,234", "500",
    ]  # fmt: skip
    assert number(None) == number(float("nan")) == "\N{EN DASH}"
    assert shown("slo_attainment", 0.5) == "50.00\u00a0%"
    assert shown("h2d_bytes", 3 * 2**30) == "3.00\u00a0GiB"
    assert shown("p99_ttft_ms", None) == "\N{EN DASH}"
    plain = targets({"ttft_ms": 500.0, "tpot_ms": None, "min_tokens_per_s": 2.5})
    assert plain.replace("\u00a0", " ") == "TTFT \u2264 500 ms, \u2265 2.50 tokens/s"
    assert targets({}) == "none"


@pytest.mark.parametrize(
    ("key", "value", "base", "interval", "wanted"),
    [
        ("p99_ttft_ms", 50.0, 100.0, None, ("\u221250.00 %", "better")),
        ("request_goodput", 50.0, 100.0, None, ("\u221250.00 %", "worse")),
        ("slo_attainment", 0.75, 0.5, None, ("+25.00 points", "better")),
        ("slo_attainment", 0.5, 0.0, None, ("+50.00 points", "better")),
        ("preemptions", 3, 0, None, ("+3", "worse")),
        ("preemptions", 3, 3, None, ("same", "same")),
        ("preemptions", 3, 3, Bounds(0, 0), ("same", "same")),
        ("preemptions", 3, 3, Bounds(-3, 3), ("0 % [\u2212100, +100]", "unclear")),
        ("p99_itl_ms", 2.0, 1.0, Bounds(-1, 2), ("+100 % [\u2212100, +200]", "unclear")),
        ("p99_ttft_ms", 110.0, 100.0, Bounds(5, 15), ("+10.00 % [+5.00, +15.00]", "worse")),
        ("p99_ttft_ms", 9.0, 100.0, Bounds(-140.0, -60.0), ("\u221291.00 % [\u2212140 to \u221260.00]", "better")),  # noqa: E501
        ("p99_ttft_ms", None, 100.0, None, None),
        ("p99_ttft_ms", 1.0, None, None, None),
        ("p99_ttft_ms", float("nan"), 1.0, None, None),
        ("p99_ttft_ms", 1.0, float("nan"), None, None),
        ("p99_ttft_ms", 1.0, float("inf"), None, None),
    ],
)  # fmt: skip
def test_differences(
    key: str, value: float, base: float, interval: Interval | None, wanted: tuple[str, str] | None
) -> None:
    found = change(key, value, base, interval)
    words = found and (change_words(found).replace("\u00a0", " "), found.verdict)
    assert words == wanted


def test_only_markup_of_our_own_is_markup() -> None:
    assert text("<&>\"'") == "&lt;&amp;&gt;&quot;&#x27;"
    assert tag("td", "<b>", Html("<b></b>"), class_='a"b', hidden=None) == (
        '<td class="a&quot;b">&lt;b&gt;<b></b></td>'
    )


def test_pictures_are_tidy_and_say_what_they_show() -> None:
    figure = Figure(figsize=(4, 3))
    axes = figure.subplots()
    axes.plot([0, 1, 2], [0, 3, 1], label="a < b")
    axes.legend()
    svg = inline_svg(figure, "one", "Title <1>", "All & sundry")
    assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg" viewBox=')
    assert '<title id="one-title">Title &lt;1&gt;</title>' in svg
    assert '<desc id="one-desc">All &amp; sundry</desc>' in svg
    assert ">a &lt; b</text>" in svg
    assert "metadata" not in svg
    assert "<style" not in svg
    assert "font-family" not in svg
    assert not re.search(r"\d\.\d{3}", re.sub(r'style="[^"]*"', "", svg))
