"""Whether estimates from several seeds agree with what they should be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SEEDS = range(20)
SIGMAS = 4.0
"""Tolerance in standard errors. With 20 seeds the error itself is an estimate, and a right value
lies outside four of them about once in 1,300 times (Student's t, 19 degrees of freedom)."""


def standard_error(estimates: Sequence[float]) -> float:
    """Of the mean of independent estimates."""
    return float(np.std(estimates, ddof=1) / np.sqrt(len(estimates)))


def assert_agree(
    estimates: Sequence[float], expected: float, precision: float, bias: float = 0.0
) -> None:
    """The mean of independent estimates is `expected` within four standard errors.

    `precision` is the largest relative standard error with which the test means anything, and
    `bias` a known relative bias of the estimator that is allowed on top.
    """
    error = standard_error(estimates)
    assert error <= precision * abs(expected), f"standard error {error:g} of {expected:g}"
    assert abs(np.mean(estimates) - expected) <= SIGMAS * error + bias * abs(expected)


def assert_same(estimates: Sequence[float], others: Sequence[float], precision: float) -> None:
    """Two sets of independent estimates have the same mean."""
    error = float(np.hypot(standard_error(estimates), standard_error(others)))
    assert error <= precision * abs(np.mean(others)), f"standard error {error:g}"
    assert abs(np.mean(estimates) - np.mean(others)) <= SIGMAS * error


def assert_share(hits: int, draws: int, expected: float) -> None:
    """A share of independent draws, within four binomial standard errors."""
    error = np.sqrt(expected * (1 - expected) / draws)
    assert abs(hits / draws - expected) <= SIGMAS * error + 1 / draws
