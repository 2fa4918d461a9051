"""Experts under uneven routing: the formula against routers that really draw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superinfer.costs import build_cost
from superinfer.costs.base import Chunk
from superinfer.costs.devices import load_device
from superinfer.costs.experts import experts_s, picks, reached
from superinfer.costs.roofline import RooflineCost
from superinfer.costs.shapes import load_shape
from superinfer.errors import ConfigError


def test_without_skew_every_expert_is_picked_alike() -> None:
    assert picks(8, 2, 0.0) == pytest.approx([0.25] * 8)
    assert reached(8, 2, 0.0, 3) == pytest.approx(8 * (1 - 0.75**3))


def test_by_hand() -> None:
    """Weights 1, 1/2, 1/3, 1/4 and two picks: the first is sure, the others share one."""
    assert picks(4, 2, 1.0) == pytest.approx([24 / 25, 12 / 25, 8 / 25, 6 / 25])
    # Weights 1, 1/4, 1/9, 1/16: twice 1 over their sum is above 1, so the first is sure.
    rest = 1 / 4 + 1 / 9 + 1 / 16
    assert picks(4, 2, 2.0) == pytest.approx([1, 1 / 4 / rest, 1 / 9 / rest, 1 / 16 / rest])


@given(st.integers(1, 64), st.integers(1, 64), st.floats(0, 8))
def test_picks_are_chances_that_add_up(experts: int, per_token: int, skew: float) -> None:
    per_token = min(experts, per_token)
    found = picks(experts, per_token, skew)
    assert len(found) == experts and sum(found) == pytest.approx(per_token)
    assert list(found) == sorted(found, reverse=True) and found[-1] >= 0.0 and found[0] <= 1.0


@given(st.floats(0, 4), st.floats(0.1, 4), st.integers(1, 512))
def test_more_skew_reaches_fewer_experts(skew: float, more: float, tokens: int) -> None:
    even, uneven = (reached(8, 2, each, tokens) for each in (skew, skew + more))
    assert uneven <= even + 1e-12
    assert reached(8, 2, skew, tokens) <= reached(8, 2, skew, tokens + 1)


@pytest.mark.parametrize("skew", [0.0, 0.7, 1.5])
def test_reached_is_what_independent_draws_give(skew: float) -> None:
    """Tokens that pick by systematic sampling, which has exactly these chances."""
    rng, tokens, rounds = np.random.RandomState(7), 5, 4000
    ends = np.cumsum(picks(8, 2, skew))
    starts = rng.random_sample((rounds, tokens))
    chosen = np.searchsorted(ends, np.stack([starts, starts + 1.0], axis=2) * ends[-1] / 2.0)
    distinct = [np.unique(each).size for each in chosen.reshape(rounds, -1)]
    assert np.mean(distinct) == pytest.approx(reached(8, 2, skew, tokens), abs=0.06)


def test_popular_experts_are_bound_by_compute_first() -> None:
    """By hand: two experts, one in every token; 10 tokens, 1 s each to compute, 4 s to read."""
    assert experts_s((1.0, 0.0), 10, 1.0, 4.0) == pytest.approx(10.0)
    # Evenly 5 tokens each: compute 5 s beats reading (1 - 0.5**10) * 4 s.
    assert experts_s((0.5, 0.5), 10, 1.0, 4.0) == pytest.approx(10.0)
    assert experts_s((0.5, 0.5), 1, 1.0, 4.0) == pytest.approx(4.0)


def test_skew_speeds_small_batches_up_and_slows_mixed_ones() -> None:
    device, shape = load_device("a100-80g"), load_shape("mixtral-8x7b")
    even = RooflineCost(shape, device, 2)
    uneven = RooflineCost(replace(shape, routing_skew=1.5), device, 2)
    assert uneven.step_s((), 4, 400) < 0.9 * even.step_s((), 4, 400)
    # Where the popular ones are bound by compute and the others by their weights.
    assert uneven.step_s([Chunk(512, 0)], 0, 0) > 1.1 * even.step_s([Chunk(512, 0)], 0, 0)
    # A long prompt is bound by compute everywhere: nothing is left to gain or to lose.
    long = [Chunk(16384, 0)]
    assert uneven.step_s(long, 0, 0) == pytest.approx(even.step_s(long, 0, 0), rel=0.05)


def test_a_profile_has_its_own_routing() -> None:
    shape = replace(load_shape("llama-3.1-8b"), routing_skew=1.0)
    with pytest.raises(ConfigError, match="routing_skew is for roofline costs"):
        build_cost(shape, "a100-80g", costs="calibrated")
