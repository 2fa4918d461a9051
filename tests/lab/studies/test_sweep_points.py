"""Peak goodput, and where a search for it looks next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from superinfer.errors import ConfigError
from superinfer.lab.config import load_config
from superinfer.lab.config.run import RATE_SCALES
from superinfer.lab.pictures.sweep import Along
from superinfer.lab.results import Run
from superinfer.lab.studies.axes import Axis, Place, Value
from superinfer.lab.studies.sweep_points import Point, lines, peaks, rate_axis, to_refine

RATES = Axis("rate", "run.rate_scale", (1, 2, 3, 4))
LINKS = Axis("link", "run.host_link_gb_per_s", (25, 50))


def point(place: Place, attainment: float | None, arm: str = "a", goodput: float = 1.0) -> Point:
    summary = {"slo_attainment": attainment, "request_goodput": goodput}
    return Point(arm, place, (Run(Path("x"), summary),))


def over_rate(
    shares: Mapping[Value, float | None] | Sequence[float], arm: str = "a"
) -> list[Point]:
    pairs = shares if isinstance(shares, Mapping) else dict(zip(RATES.values, shares, strict=False))
    return [point((rate,), share, arm, float(rate)) for rate, share in pairs.items()]


def test_the_peak_is_at_the_largest_rate_that_keeps_the_share() -> None:
    (peak,) = peaks([RATES], over_rate([1.0, 0.97, 0.95, 0.6]), 0.95)
    assert (peak.rate, peak.bracketed, peak.kept_above) == (3, True, ())
    assert peak.point is not None and peak.point.value("request_goodput") == 3.0


def test_a_rate_above_one_that_fails_is_no_peak_and_is_told() -> None:
    (peak,) = peaks([RATES], over_rate([1.0, 0.9, 0.96, 0.6]), 0.95)
    assert (peak.rate, peak.bracketed, peak.kept_above) == (1, True, (3,))
    assert peak.point is not None and peak.point.value("request_goodput") == 1.0
    (peak,) = peaks([RATES], over_rate([0.9, 0.96, 0.97, 0.99]), 0.95)
    assert (peak.rate, peak.point, peak.kept_above) == (None, None, (2, 3, 4))


def test_where_all_keep_it_the_peak_is_a_bound() -> None:
    (peak,) = peaks([RATES], over_rate([1.0, 1.0, 0.99, 0.98]), 0.95)
    assert (peak.rate, peak.bracketed) == (4, False)


def test_where_none_keeps_it_there_is_no_peak() -> None:
    (peak,) = peaks([RATES], over_rate([0.9, 0.5]), 0.95)
    assert (peak.rate, peak.point, peak.bracketed) == (None, None, True)


def test_every_arm_and_every_place_of_the_others_has_its_own() -> None:
    points = [
        point((rate, link), share, arm)
        for arm, good in (("a", 1), ("b", 2))
        for link in (25, 50)
        for rate in (1, 2)
        for share in [0.99 if rate * 25 <= good * link / 2 + 13 else 0.1]
    ]
    found = peaks([RATES, LINKS], points, 0.95)
    assert [(p.arm, p.others, p.rate) for p in found] == [
        ("a", (25,), 1),
        ("a", (50,), 1),
        ("b", (25,), 1),
        ("b", (50,), 2),
    ]


def test_without_rate_or_targets_there_is_nothing() -> None:
    assert peaks([LINKS], [point((25,), 0.99)], 0.95) == []
    assert peaks([RATES], over_rate({1: None, 2: None}), 0.95) == []
    assert rate_axis([LINKS]) is None
    assert list(lines([LINKS], [point((25,), 0.99)], None)) == []


def refined(shares: Mapping[Value, float | None], tolerance: float = 0.1) -> list[Value]:
    return [place[0] for _, place in to_refine([RATES], over_rate(shares), 0.95, tolerance)]


def test_a_search_halves_the_gap() -> None:
    assert refined({1: 1.0, 2: 0.99, 3: 0.5, 4: 0.2}) == [2.5]
    assert refined({1: 1.0, 2: 0.99, 2.1: 0.5}) == [], "close enough"
    assert refined({1: 1.0, 1.5: 0.5}, 0.5) == [], "and so is what is just within it"
    assert refined({1: 1.0, 2: None}) == [1.5], "where nobody is judged nothing is kept"
    assert refined({1: 1.0, 2: 0.9, 3: 0.96, 4: 0.5}) == [1.5], "below the first that fails"
    assert refined({1: 0.9, 2: 0.96}) == [0.5]


def test_a_search_leaves_the_axis_where_it_must() -> None:
    assert refined({1: 1.0, 2: 1.0, 4: 1.0}) == [8]
    assert refined({1: 0.5, 2: 0.4}) == [0.5]
    assert (refined({32: 1.0}), refined({64: 1.0})) == ([64], []), "not for ever"
    assert (refined({0.125: 0.5}), refined({0.0625: 0.5})) == ([0.0625], [])
    assert refined({1: None, 2: None}) == []


def test_a_search_asks_for_no_rate_that_is_refused() -> None:
    least, most = RATE_SCALES

    def asked(rate: float, share: float) -> list[Value]:
        points = over_rate({rate: share})
        return [at[0] for _, at in to_refine([replace(RATES, values=(rate,))], points, 0.95, 0.1)]

    assert (asked(least, 0.5), asked(1.9 * least, 0.5)) == ([], [])
    assert asked(2 * least, 0.5) == [least]
    assert (asked(most, 1.0), asked(0.6 * most, 1.0)) == ([], [])
    assert asked(most / 2, 1.0) == [most]
    for rate in (least, most):
        assert load_config(None, [], rate_scale=rate).run.rate_scale == rate
    for beyond in (least / 2, 2 * most):
        with pytest.raises(ConfigError, match=r"^run\.rate_scale: expected a number [<>]= "):
            load_config(None, [], rate_scale=beyond)


def test_a_search_finds_a_threshold() -> None:
    known: dict[Value, float | None] = {rate: 1.0 if rate <= 2.7 else 0.5 for rate in (1, 2, 3, 4)}
    while more := refined(known, 0.01):
        known |= {rate: 1.0 if float(rate) <= 2.7 else 0.5 for rate in more}
    (peak,) = peaks([RATES], over_rate(known), 0.95)
    assert peak.rate is not None and 2.7 / 1.01 <= peak.rate <= 2.7
    assert len(known) < 12


def test_seeds_are_averaged_and_have_a_range() -> None:
    runs = tuple(Run(Path("x"), {"slo_attainment": share}) for share in (0.9, 1.0))
    both = Point("a", (1,), runs)
    assert both.value("slo_attainment") == pytest.approx(0.95)
    assert both.range_of("slo_attainment") == (0.9, 1.0)
    assert both.range_of("p99_ttft_ms") is None
    one_unjudged = replace(both, runs=(*runs, Run(Path("x"), {"slo_attainment": None})))
    assert one_unjudged.range_of("slo_attainment") is None
    (peak,) = peaks([RATES], [both], 0.95)
    assert peak.rate == 1


def test_a_rate_of_the_search_alone_has_no_row_in_the_pictures_of_other_axes() -> None:
    grid = [point((rate, link), 0.9) for rate in (1, 2) for link in (25, 50)]
    searched = [point((1.5, link), 0.9) for link in (25, 50)]
    axes = [Axis("rate", "run.rate_scale", (1, 2)), LINKS]
    assert list(Along(axes, 1).rows([*grid, *searched])) == [(1,), (2,)]
    ((_, _, line),) = Along(axes, 0).rows([*grid, *searched])[(25,)]
    assert [p.place for p in line] == [(1, 25), (1.5, 25), (2, 25)]


def test_where_most_points_failed_an_axis_has_no_picture() -> None:
    left = [point((1, 25), 0.9), point((2, 50), 0.9)]
    assert all(Along([RATES, LINKS], at).rows(left) == {} for at in (0, 1))
