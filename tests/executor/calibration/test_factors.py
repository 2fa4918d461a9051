"""What brings tables in line with whole steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from executor.calibration.factors import (
    HIGHEST,
    LOWEST,
    Factors,
    entry,
    factors_of,
    fit_factors,
    fit_steps,
    inverse,
    least_ratio,
    parts_of,
    scaled,
)
from executor.calibration.fit import MOST_SHARED, shared_factor, with_steps
from executor.calibration.host_time import HostFit
from executor.calibration.report import profile_lines, warnings_of
from executor.calibration.steps import Steps
from executor.step_log import Step
from superinfer.costs import CalibratedCost, Chunk, load_shape
from superinfer.costs.profile import HostCost, Kernel, Profile


def test_wide_steps_have_a_factor_of_their_own(profile: Profile) -> None:
    """Tables past 1,024 tokens alone take it, and still never fall."""
    wide = Kernel({"tokens": (1.0, 1024.0, 1025.0, 4096.0)}, (1.0, 2.0, 2.1, 8.0))
    given = replace(profile, kernels=profile.kernels | {"norm": wide})
    found = scaled(given, Factors(1.0, 1.0, 1.0, 1.5)).kernels["norm"]
    assert found.seconds == pytest.approx((1.0, 2.0, 3.15, 12.0))
    lower = scaled(given, Factors(1.0, 1.0, 1.0, 0.5)).kernels["norm"]
    assert lower.seconds == pytest.approx((1.0, 2.0, 2.0, 4.0))
    assert scaled(given, Factors(2.0)).kernels["norm"].seconds == pytest.approx((2, 4, 4.2, 16))


@pytest.mark.parametrize("ratio", [0.3, 0.9, 1.7])
def test_tables_come_back_from_being_scaled(profile: Profile, ratio: float) -> None:
    """Also where wide steps are far faster than dense ones: the factor ends where a table would
    fall.
    """
    kernel = Kernel({"tokens": (1.0, 1024.0, 1025.0, 4096.0)}, (1.0, 2.0, 2.5, 8.0))
    attention = {
        name: profile.kernels[name] for name in ("attention_decode_16", "attention_prefill")
    }
    given = replace(profile, kernels={"norm": kernel, **attention})
    assert least_ratio(given) == pytest.approx(0.8)
    factors = Factors(1.3, 0.9, 1.1, 1.3 * max(ratio, least_ratio(given)), 1.2)
    there = scaled(given, factors)
    back = scaled(there, inverse(factors_of(entry(factors))))
    for name, measured in given.kernels.items():
        assert there.kernels[name].seconds != measured.seconds
        assert np.asarray(back.kernels[name].seconds) == pytest.approx(np.asarray(measured.seconds))


def test_a_shared_processor_slows_all_steps(profile: Profile, config: Path) -> None:
    """By the sum of the driver's steps, which medians do not see; never on a GPU."""
    shape = load_shape(config)
    cost, host = CalibratedCost(profile, shape), HostFit(0.001, 0.0)
    usual = cost.step_s((), 2, 64) + 0.001

    def driven(*slower: float, replay_s: float | None = None) -> Steps:
        return Steps([], [], [Step((), 2, 64, usual * factor, replay_s) for factor in slower])

    steps = driven(1.0, 1.0, 1.4, 1.0)
    assert shared_factor(profile, steps, cost, host) == pytest.approx(1.1)
    assert shared_factor(profile, driven(0.5, 1.0), cost, host) == 1.0
    assert shared_factor(profile, driven(9.0), cost, host) == MOST_SHARED
    assert shared_factor(profile, driven(), cost, host) == 1.0
    assert shared_factor(profile, driven(9.0, replay_s=0.1), cost, host) == 1.0
    assert shared_factor(replace(profile, device="h200"), steps, cost, host) == 1.0


def test_a_shared_processor_is_in_the_profile(profile: Profile, config: Path) -> None:
    """Predictions of a run's steps add up to what they took."""
    shape = load_shape(config)
    plain = replace(profile, host=HostCost(0.0, 0.0, "measured"))
    truth = CalibratedCost(plain, shape)
    seconds = truth.step_s((), 2, 64)
    calm = [Step((), 2, 64, seconds) for _ in range(16)]
    run = [Step((), 2, 64, seconds * (1.8 if i % 8 == 0 else 1.0)) for i in range(80)]
    found = with_steps(plain, shape, Steps(calm, calm, run))
    assert found.fit["in_step"]["shared"] == pytest.approx(1.1, abs=0.02)
    predicted = CalibratedCost(found, shape)
    total_s = sum(predicted.step_s((), 2, 64) + predicted.host_s(2) for _ in run)
    assert total_s == pytest.approx(sum(step.seconds for step in run), rel=0.02)


def test_a_factor_at_its_bound_is_named(profile: Profile) -> None:
    fit = {"in_step": entry(Factors(HIGHEST, 1.0, LOWEST)), "driver_step": {"mean": 0.1}}
    shown = "\n".join(profile_lines(replace(profile, fit=fit)))
    assert "dense, prefill: not fitted, at the end of what is allowed (0.5 to 2)" in shown
    assert "10.0% (host time is fitted with these)" in shown
    fit = {"in_step": entry(Factors(1.1, 1.0, 0.9))}
    assert "not fitted" not in "\n".join(profile_lines(replace(profile, fit=fit)))


def test_factors_of_kernels_in_a_step() -> None:
    """Found with host time beside them, in spite of outliers; of the device alone too."""
    random = np.random.default_rng(0)
    parts = random.uniform(0.1, 1.0, (40, 3))
    sequences = random.integers(1, 32, 40).astype(float)
    device = parts @ np.array([1.2, 0.9, 1.1])
    seconds = device + 0.05 + 0.002 * sequences
    seconds[5] *= 3
    found, host = fit_steps(parts, [sequences], seconds)
    assert host == pytest.approx([0.05, 0.002], rel=0.3)
    assert (found.dense, found.decode, found.prefill) == pytest.approx((1.2, 0.9, 1.1), abs=0.05)
    alone = fit_factors(parts[:, :] * [1, 1, 0], parts @ np.array([1.3, 1.0, 0.0]))
    assert (alone.dense, alone.decode, alone.prefill) == pytest.approx((1.3, 1.0, 1.0), abs=0.03)


def test_scaled_tables_predict_scaled_steps(profile: Profile, config: Path) -> None:
    """Each factor has its own part of a step."""
    shape = load_shape(config)
    profile = replace(profile, host=HostCost(0.0, 0.0, "measured"))
    steps = [Step((), 4, 256, 1.0), Step((Chunk(32, 0),), 0, 0, 1.0)]
    parts = parts_of(profile, shape, steps)
    assert parts[0, 2] == 0 and parts[1, 1] == 0 and (parts[:, 0] > 0).all()
    twice = scaled(profile, Factors(2.0, 3.0, 4.0))
    cost = CalibratedCost(twice, shape)
    for step, part in zip(steps, parts, strict=True):
        assert step.device_s(cost) == pytest.approx(part @ np.array([2.0, 3.0, 4.0]))


def test_a_busy_device_is_warned_of(profile: Profile) -> None:
    steady = {
        "gemm_qkv": {"spread": 0.02},
        "norm": {"spread": 0.9},
        "o": {"spread": 0.1},
        "step": {},
    }
    assert warnings_of(replace(profile, fit=steady)) == []
    busy = steady | {"embed": {"spread": 0.6}, "sample": {"spread": 0.4}}
    (told,) = warnings_of(replace(profile, fit=busy))
    assert "differ by 40%" in told


def test_a_profile_that_is_far_off_is_warned_of(profile: Profile) -> None:
    def told(error: float | None) -> list[str]:
        return warnings_of(replace(profile, fit={"step": {"heldout_mape": error}}))

    assert told(None) == told(0.1) == []
    assert told(14.703)[0].startswith("warning: steps that were measured beside are 1470% off")
