"""The fit of unequal contexts: what a made-up device does is found again, with its errors."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest

from superinfer.costs import list_profiles, load_profile, load_shape
from superinfer.costs.calibrated import CalibratedCost
from superinfer.costs.profile import Kernel
from superinfer.lab.profiles.skew import Skews, skew_kernels

SIZES = (8.0, 64.0, 128.0, 256.0)
EQUAL_S_PER_TOKEN = 4e-7
SLOPE_S = 2e-8


def skews(reach: float, shares: tuple[float, ...] = (0.01, 0.1, 0.25, 0.5, 0.75)) -> Skews:
    """Batches in which a share of the contexts is four times as long as the others."""
    rows = []
    for size in SIZES:
        for short in (256.0, 1024.0):
            for share in shares:
                longest, mean = 4 * short, short * (1 + 3 * share)
                equal_s = EQUAL_S_PER_TOKEN * mean
                slope_s = SLOPE_S if size > 8 else 0.0
                more_s = slope_s * max(0.0, longest - reach * mean)
                rows.append((size, longest, mean, equal_s, more_s / equal_s))
    return Skews(*(np.array(column) for column in zip(*rows, strict=True)))


@pytest.mark.parametrize("reach", [1.0, 1.6, 2.0])
def test_slope_and_reach_are_found_again(reach: float) -> None:
    found = skew_kernels(skews(reach), kv_heads=8)
    uneven, busy = (found[f"attention_{part}"].kernel for part in ("uneven", "busy"))
    # 0.8 x 2 x 188 thread blocks: 38 sequences of 8 KV heads are the first that are not split.
    assert uneven.axes["sequences"] == (8.0, 37.0, 38.0, 64.0, 128.0, 256.0)
    assert uneven.seconds == pytest.approx([0.0, 0.0, *[SLOPE_S] * 4], rel=1e-3)
    assert busy.seconds == pytest.approx([0.0, 0.0, *[reach * SLOPE_S] * 4], rel=0.02)
    assert np.mean(found["attention_uneven"].errors) < 1e-3


def test_one_ratio_of_lengths_says_nothing_of_the_reach() -> None:
    """Then everything above the mean counts, as far as the data go."""
    found = skew_kernels(skews(1.6, shares=(0.01,)), kv_heads=8)
    uneven, busy = (found[f"attention_{part}"].kernel for part in ("uneven", "busy"))
    assert busy.seconds == uneven.seconds
    assert np.mean(found["attention_uneven"].errors) < 1e-3


def test_errors_are_those_of_what_was_held_out() -> None:
    """A batch that takes twice as long as the others' rule says is missed by half."""
    data = skews(1.6)
    strange = np.array(data.more)
    strange[7] = 2.0 * (1.0 + strange[7]) - 1.0
    errors = skew_kernels(data._replace(more=strange), kv_heads=8)["attention_uneven"].errors
    assert np.sort(errors)[-1] == pytest.approx(0.5, abs=0.05)
    assert len(errors) == len(strange) - 2


def cost(uneven_s: float, busy_s: float | None) -> CalibratedCost:
    path = next(each.path for each in list_profiles() if each[:2] == ("h100", "llama-3.1-8b"))
    profile = load_profile(path)
    more = {"attention_uneven": Kernel({"sequences": (1.0, 64.0)}, (uneven_s, uneven_s))}
    if busy_s is not None:
        more["attention_busy"] = Kernel({"sequences": (1.0, 64.0)}, (busy_s, busy_s))
    found = replace(profile, kernels={**profile.kernels, **more})
    return CalibratedCost(found, load_shape(profile.model))


@pytest.mark.parametrize(
    ("busy_s", "steps"), [(None, inf), (1e-8, inf), (2e-8, 200), (0.5e-8, inf)]
)
def test_a_line_holds_as_long_as_it_says(busy_s: float | None, steps: float) -> None:
    """4 contexts of 100 in the mean, the longest 400: above two means for 200 steps."""
    model = cost(1e-8, busy_s)
    line = model.uneven_line(4, 400, 400)
    assert line.steps == pytest.approx(steps, abs=1)
    for step in (0, 1, 50, 199):
        expected = model.uneven_s(4, 400 + 4 * step, 400 + step)
        assert line.first_s + step * line.growth_s == pytest.approx(expected, abs=1e-12)


def test_nothing_is_taken_off_and_it_may_come_later() -> None:
    shorter = cost(1e-8, 2e-8)
    assert shorter.uneven_line(4, 400, 150).first_s == 0.0
    assert shorter.uneven_line(4, 400, 150).steps == inf
    # Whose longest context counts for more than the mean, beyond 1,000 tokens of it.
    later = cost(2e-8, 1e-8).uneven_line(1, 1000, 100)
    assert (later.first_s, later.growth_s) == (0.0, 0.0)
    assert later.steps == pytest.approx(800, abs=1)
    assert cost(1e-8, 1e-8).uneven_line(0, 0, 0).first_s == 0.0
