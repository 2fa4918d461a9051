"""Burstier and calmer arrivals."""

from __future__ import annotations

import numpy as np
import pytest

from superinfer.request import Request
from traces.gaps import scale_gaps


def requests_at(*times_s: float) -> list[Request]:
    return [Request(str(i), at, 10, 10, index=i) for i, at in enumerate(times_s)]


def times(requests: list[Request]) -> list[float]:
    return [request.arrival_s for request in requests]


def test_gaps_move_away_from_their_mean_and_back() -> None:
    burstier, calmer = requests_at(1.0, 3.0, 9.0), requests_at(1.0, 3.0, 9.0)
    scale_gaps(burstier, 1.25)  # gaps of 2 and 6, 2 from their mean
    scale_gaps(calmer, 0.5)
    assert times(burstier) == pytest.approx([1.0, 2.5, 9.0])
    assert times(calmer) == pytest.approx([1.0, 4.0, 9.0])


def test_no_gap_falls_below_zero_and_the_ends_stay() -> None:
    random = np.random.default_rng(0)
    made = requests_at(*np.cumsum(random.gamma(0.5, 2.0, 500)))
    first, last = made[0].arrival_s, made[-1].arrival_s
    before = np.diff(times(made))
    scale_gaps(made, 1.4)
    after = np.diff(times(made))
    assert made[0].arrival_s == first and made[-1].arrival_s == pytest.approx(last)
    assert after.min() >= 0.0
    assert np.std(after) / np.mean(after) > 1.1 * np.std(before) / np.mean(before)


@pytest.mark.parametrize("made", [requests_at(), requests_at(3.0), requests_at(3.0, 3.0)])
def test_what_has_no_gaps_stays(made: list[Request]) -> None:
    before = times(made)
    scale_gaps(made, 0.0)
    assert times(made) == before


def test_equal_gaps_at_zero() -> None:
    made = requests_at(0.0, 0.1, 0.3, 3.0)
    scale_gaps(made, 0.0)
    assert times(made) == pytest.approx([0.0, 1.0, 2.0, 3.0])
