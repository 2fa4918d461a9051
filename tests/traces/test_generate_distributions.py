"""Lengths and counts: every family has the mean, spread and quantiles that it names."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from estimates import SEEDS, assert_agree, assert_share

from traces.generate.distributions import (
    Z_99,
    Count,
    Distribution,
    draw,
    draw_whole,
    mean_count,
)

DRAWS = 2000
HISTOGRAM_CV = math.sqrt((10**2 / 3 + 20**2 + 20**2 / 12) / 2 - 12.5**2) / 12.5
"""Of a uniform from 0 to 10 or from 10 to 30, each half of the time."""


def family(**keys: Any) -> Any:
    """A distribution as a table of a specification gives it."""
    return msgspec.convert(keys, Distribution)


def samples(given: Any, whole: bool = False) -> list[Any]:
    """Draws of each seed."""
    drawer = draw_whole if whole else draw
    return [drawer(given, np.random.RandomState(seed), DRAWS) for seed in SEEDS]


@pytest.mark.parametrize(
    ("keys", "mean", "cv"),
    [
        ({"family": "lognormal", "mean": 200, "sigma": 0.8}, 200, math.sqrt(math.expm1(0.64))),
        ({"family": "gamma", "mean": 50, "cv": 0.5}, 50, 0.5),
        ({"family": "gamma", "mean": 50}, 50, 1.0),
        ({"family": "uniform", "min": 10, "max": 30}, 20, 20 / math.sqrt(12) / 20),
        ({"family": "geometric", "mean": 5}, 5, math.sqrt(0.8)),
        ({"family": "values", "values": [1, 5], "weights": [3, 1]}, 2, math.sqrt(0.75)),
        ({"family": "histogram", "edges": [0, 10, 30], "weights": [1, 1]}, 12.5, HISTOGRAM_CV),
        ({"family": "gamma", "mean": 5, "times": 8}, 40, 1.0),
    ],
)
def test_mean_and_variation(keys: dict[str, Any], mean: float, cv: float) -> None:
    drawn = samples(family(**keys))
    assert_agree([x.mean() for x in drawn], mean, precision=0.01)
    # The CV of n draws is low by the order of 1/n, more for heavy tails.
    assert_agree([x.std() / x.mean() for x in drawn], cv, precision=0.02, bias=0.01)


@pytest.mark.parametrize(
    "keys",
    [
        {"mean": 200, "sigma": 0.8},
        {"mean": 200, "p50": 120},
        {"mean": 200, "p99": 900},
        {"p50": 120, "p99": 900},
        {"p50": 120, "sigma": 0.5},
        {"p99": 900, "sigma": 0.5},
    ],
)
def test_a_lognormal_has_what_was_asked_for(keys: dict[str, float]) -> None:
    given = family(family="lognormal", **keys)
    mu, sigma = given.parameters()
    named = {
        "mean": math.exp(mu + sigma**2 / 2),
        "sigma": sigma,
        "p50": math.exp(mu),
        "p99": math.exp(mu + Z_99 * sigma),
    }
    assert {key: named[key] for key in keys} == pytest.approx(keys)
    drawn = np.concatenate(samples(given))
    assert_share(int((drawn <= named["p50"]).sum()), len(drawn), 0.5)
    assert_share(int((drawn <= named["p99"]).sum()), len(drawn), 0.99)


def test_the_99_percent_quantile_of_the_normal_distribution() -> None:
    assert math.erf(Z_99 / math.sqrt(2)) == pytest.approx(0.98, abs=1e-12)


def test_whole_draws_of_a_uniform_are_all_alike() -> None:
    drawn = np.concatenate(samples(family(family="uniform", min=1, max=4), whole=True))
    for value in (1, 2, 3, 4):
        assert_share(int((drawn == value).sum()), len(drawn), 0.25)


def test_whole_draws_of_a_histogram_stay_in_their_bin() -> None:
    given = family(family="histogram", edges=[1, 3, 11], weights=[1, 3])
    drawn = np.concatenate(samples(given, whole=True))
    for value, share in ((1, 1 / 8), (2, 1 / 8), (3, 3 / 32), (10, 3 / 32), (11, 0.0)):
        assert_share(int((drawn == value).sum()), len(drawn), share)


def test_draws_are_cut_and_at_least_one() -> None:
    cut = draw_whole(family(family="gamma", mean=50, min=20, max=60), np.random.RandomState(0), 999)
    assert (cut.min(), cut.max()) == (20, 60)
    small = draw_whole(family(family="gamma", mean=0.1), np.random.RandomState(0), 999)
    assert small.min() == 1
    assert draw_whole(0, np.random.RandomState(0), 3, least=0).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "keys",
    [
        {"family": "geometric", "mean": 2.2},
        {"family": "geometric", "mean": 2.2, "max": 7},
        {"family": "geometric", "mean": 8, "min": 3, "max": 12},
        {"family": "geometric", "mean": 1},
        {"family": "uniform", "min": 2, "max": 5},
        {"family": "values", "values": [0, 2.6, 7], "weights": [1, 2, 1]},
        {"family": "fixed", "value": 3, "times": 2},
    ],
)
def test_the_mean_of_a_count_is_exact(keys: dict[str, Any]) -> None:
    given = msgspec.convert(keys, Count)
    drawn = samples(given, whole=True)
    if np.ptp(np.concatenate(drawn)) == 0:
        assert mean_count(given) == drawn[0][0]
    else:
        assert_agree([x.mean() for x in drawn], mean_count(given), precision=0.01)
