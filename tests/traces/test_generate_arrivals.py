"""Arrivals: rate and variation of each family, in equilibrium, also where the rate changes."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from estimates import SEEDS, assert_agree

from traces.generate.arrivals import AnyCurve, AnyGaps, Bursts, Clock, start_times, weibull_shape

DURATION_S = 1000.0
FAMILIES = [
    ({"family": "poisson"}, 1.0),
    ({"family": "gamma", "cv": 1.5}, 1.5),
    ({"family": "gamma", "cv": 0.3}, 0.3),
    ({"family": "weibull", "cv": 2.0}, 2.0),
    ({"family": "weibull", "cv": 0.5}, 0.5),
]
CURVES = [
    {"shape": "sine", "period_s": 700, "amplitude": 0.8, "peak_s": 100},
    {"shape": "linear", "points": [[100, 0.5], [300, 2], [800, 0]]},
    {"shape": "linear", "points": [[50, 1], [100, 3]], "period_s": 250},
    {"shape": "linear", "points": [[0, 2]]},
]


def gaps(keys: dict[str, Any]) -> Any:
    """A family of gaps as a table of a specification gives it."""
    return msgspec.convert(keys, AnyGaps)


def times(keys: dict[str, Any], clock: Clock, seed: int, duration_s: float = DURATION_S) -> Any:
    return start_times(gaps(keys), clock, np.random.RandomState(seed), 0.0, duration_s)


@pytest.mark.parametrize(("keys", "cv"), FAMILIES)
def test_rate_and_variation(keys: dict[str, Any], cv: float) -> None:
    drawn = [times(keys, Clock(2.0, None), seed) for seed in SEEDS]
    assert_agree([len(x) / DURATION_S for x in drawn], 2.0, precision=0.02)
    apart_s = [np.diff(x) for x in drawn]
    # 2,000 gaps: their CV is low by about cv^2 / 2,000, and long gaps are seen a little less.
    assert_agree([x.std() / x.mean() for x in apart_s], cv, precision=0.02, bias=0.01)


@pytest.mark.parametrize(("keys", "cv"), FAMILIES)
def test_the_first_second_is_like_any_other(keys: dict[str, Any], cv: float) -> None:
    """An ordinary renewal process that starts at 0 would be off by (cv^2 - 1) / 2 arrivals."""
    counts = [len(times(keys, Clock(5.0, None), seed, 1.0)) for seed in range(1000)]
    assert_agree(counts, 5.0, precision=0.03)


def test_even_gaps_are_even() -> None:
    drawn = times({"family": "even"}, Clock(2.0, None), 1)
    assert np.allclose(np.diff(drawn), 0.5)
    assert 0 <= drawn[0] < 0.5


@pytest.mark.parametrize("cv", [0.05, 0.5, 1.0, 3.0, 20.0])
def test_the_weibull_shape_has_the_variation(cv: float) -> None:
    shape = weibull_shape(cv)
    first, second = math.gamma(1 + 1 / shape), math.gamma(1 + 2 / shape)
    assert math.sqrt(second / first**2 - 1) == pytest.approx(cv, rel=1e-6)
    assert weibull_shape(1.0) == pytest.approx(1.0)


def multiplier(keys: dict[str, Any], at_s: float) -> float:
    """The curve's height, worked out on its own."""
    if keys["shape"] == "sine":
        turns = (at_s - keys["peak_s"]) / keys["period_s"]
        return float(1 + keys["amplitude"] * math.cos(2 * math.pi * turns))
    xs, ys = zip(*keys["points"], strict=True)
    if "period_s" in keys:
        return float(np.interp(at_s, xs, ys, period=keys["period_s"]))
    return float(np.interp(at_s, xs, ys))


@pytest.mark.parametrize("keys", CURVES)
def test_a_curve_is_the_integral_of_its_multiplier(keys: dict[str, Any]) -> None:
    curve = msgspec.convert(keys, AnyCurve)
    grid_s = np.linspace(-600, 1500, 42_001)
    middles_s = (grid_s[1:] + grid_s[:-1]) / 2
    areas = np.diff(grid_s) * [multiplier(keys, at_s) for at_s in middles_s]
    expected = np.cumsum(areas) - areas[: np.searchsorted(grid_s, 0)].sum()
    assert curve.cumulative(grid_s[1:]) == pytest.approx(expected, abs=1e-3)
    assert curve.cumulative(np.zeros(1)) == pytest.approx([0.0], abs=1e-9)


@pytest.mark.parametrize("keys", CURVES)
def test_the_variation_holds_at_a_changing_rate(keys: dict[str, Any]) -> None:
    """Between two arrivals the expected number of arrivals has the gaps' distribution."""
    clock = Clock(3.0, msgspec.convert(keys, AnyCurve))
    family = {"family": "gamma", "cv": 1.5}
    drawn = [times(family, clock, seed) for seed in SEEDS]
    expected = float(clock.at(np.array([DURATION_S]))[0])
    assert_agree([len(x) for x in drawn], expected, precision=0.02)
    warped = [np.diff(clock.at(x)) for x in drawn]
    assert_agree([x.mean() for x in warped], 1.0, precision=0.02, bias=0.01)
    assert_agree([x.std() / x.mean() for x in warped], 1.5, precision=0.02, bias=0.01)


@pytest.mark.parametrize("keys", CURVES)
def test_arrivals_follow_the_curve(keys: dict[str, Any]) -> None:
    clock = Clock(3.0, msgspec.convert(keys, AnyCurve))
    bounds_s = np.array([0.0, 150, 400, 700, 1000])
    expected = np.diff(clock.at(bounds_s))
    counts = [
        np.histogram(times({"family": "poisson"}, clock, seed), bounds_s)[0] for seed in SEEDS
    ]
    for part, number in zip(np.array(counts).T, expected, strict=True):
        assert_agree(part, float(number), precision=0.05)


def test_bursts_keep_the_rate_and_raise_the_variation() -> None:
    """Poisson arrivals in random on phases are a renewal process with two-phase gaps: cv^2 is
    1 + 2 x peak rate x (1/on) / (1/on + 1/off)^2 (Kuczura 1973, interrupted Poisson process).
    """
    bursts = Bursts(on_s=10, off_s=30)
    duration_s, drawn = 30_000.0, []
    for seed in SEEDS:
        phases = bursts.phases(np.random.RandomState(100 + seed), 0.0, duration_s)
        drawn.append(times({"family": "poisson"}, Clock(0.5, None, phases), seed, duration_s))
    assert_agree([len(x) / duration_s for x in drawn], 0.5, precision=0.02)
    cv = math.sqrt(1 + 2 * 2.0 * (1 / 10) / (1 / 10 + 1 / 30) ** 2)
    apart_s = [np.diff(x) for x in drawn]
    assert_agree([x.std() / x.mean() for x in apart_s], cv, precision=0.02, bias=0.01)
