"""Piecewise-linear curves and grids."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superinfer.costs.tables import Curve, Grid, blend, linear, total

CURVE = Curve((1.0, 2.0, 4.0), (1.0, 3.0, 4.0))


@pytest.mark.parametrize(
    ("x", "seconds"), [(0, 1), (1, 1), (1.5, 2), (2, 3), (3, 3.5), (4, 4), (8, 6)]
)
def test_between_before_and_past_the_points(x: float, seconds: float) -> None:
    assert CURVE.at(x) == seconds


@pytest.mark.parametrize(
    ("x", "slope", "end"),
    [(0, 0, 1), (1, 2, 2), (1.5, 2, 2), (2, 0.5, inf), (3, 0.5, inf), (8, 0.5, inf)],
)
def test_the_slope_above_a_place_and_where_it_ends(x: float, slope: float, end: float) -> None:
    assert CURVE.piece(x) == (slope, end)


def test_one_point_is_a_constant() -> None:
    point = Curve((5.0,), (2.0,))
    assert point.at(100.0) == 2.0
    assert (point.piece(3.0), point.piece(100.0)) == ((0.0, 5.0), (0.0, inf))


def test_segments_cover_zero_to_infinity() -> None:
    ends = [end for end, _, _ in CURVE.segments()]
    assert ends == [1.0, 2.0, float("inf")]
    for end, intercept, slope in CURVE.segments()[:-1]:
        assert intercept + slope * end == pytest.approx(CURVE.at(end))


def test_linear() -> None:
    assert linear(2.0, 0.5).at(10.0) == 7.0


def test_blend() -> None:
    assert blend(CURVE, linear(0.0, 1.0), 0.25).at(3.0) == pytest.approx(0.75 * 3.5 + 0.25 * 3)


def test_grid_past_its_rows_grows_in_proportion() -> None:
    grid = Grid((1.0, 3.0), (1.0, 2.0), ((1.0, 2.0), (2.0, 6.0)))
    assert grid.at(1, 1.5) == 1.5
    assert grid.at(2, 1) == 1.5
    assert grid.at(2, 2) == 4.0
    assert grid.at(3, 2) == 6.0
    assert grid.at(6, 1) == 4.0
    assert grid.at(0.5, 3) == 3.0


axes = st.lists(st.integers(1, 1000), min_size=1, max_size=8, unique=True).map(sorted)


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    axis = draw(axes)
    count = len(axis)
    seconds = draw(st.lists(st.floats(0, 10), min_size=count, max_size=count))
    return Curve(tuple(map(float, axis)), tuple(seconds))


@given(curves(), curves(), st.integers(0, 2000))
def test_total_is_exact(one: Curve, other: Curve, x: int) -> None:
    assert total((one, other)).at(x) == pytest.approx(one.at(x) + other.at(x), abs=1e-9)


@given(curves(), st.integers(0, 2000))
def test_segments_equal_the_curve(curve: Curve, x: int) -> None:
    intercept, slope = next((b, s) for end, b, s in curve.segments() if x < end)
    assert intercept + slope * x == pytest.approx(curve.at(x), abs=1e-9)
