"""Kernels in a step against kernels alone.

In a step a kernel finds other things in the caches than beside copies of itself, and a device under
full load may clock lower. Factors (all that sees every token, decode attention, prefill attention)
bring the tables to what steps of the model really take. They are fitted on real steps, pulled
towards 1, and stored in the profile under `fit.in_step`; held-out steps take no part.

A step of some thousand tokens keeps the matrix units busy for as long as it takes, and the device
slows down as it does not in steps of a few rows. So what sees every token has a factor of its own,
`wide`, where a table is past `MANY_TOKENS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np

from executor.step_log import Step
from superinfer.costs import CalibratedCost
from superinfer.costs.profile import Kernel, Profile
from superinfer.costs.shapes import ModelShape

DECODE = ("attention_decode_16", "attention_decode_8", "attention_decode_4")
PREFILL = ("attention_prefill",)
UNSCALED = (*DECODE, *PREFILL, "requantise_8", "requantise_4", "block_copy")
LOWEST, HIGHEST = 0.5, 2.0
PULL = 0.002
"""Towards a factor of 1: what a factor of 2 costs, in squared relative errors per step."""
ROUNDS = 12
MANY_TOKENS = 1024
"""Steps of more than these are bound by arithmetic all through; they have no graphs either."""
OUTLIER = 1.5
"""Relative errors above so many times the median count less."""


@dataclass(frozen=True, slots=True)
class Factors:
    """By which tables are multiplied."""

    dense: float = 1.0
    decode: float = 1.0
    prefill: float = 1.0
    wide: float | None = None
    """In place of `dense` past `MANY_TOKENS`; None: the same."""
    shared: float = 1.0
    """All tables once more, on a CPU that others use too (`fit.shared_factor`)."""

    @property
    def at_bounds(self) -> list[str]:
        """Those that would have gone on below `LOWEST` or above `HIGHEST`."""
        named = {"dense": self.dense, "decode": self.decode, "prefill": self.prefill}
        return [name for name, value in named.items() if value in (LOWEST, HIGHEST)]


def parts_of(profile: Profile, shape: ModelShape, steps: Sequence[Step]) -> np.ndarray:
    """Predicted seconds [steps, 3] of dense kernels, decode attention and prefill attention."""
    models = [
        CalibratedCost(_without(profile, names), shape)
        for names in ((*DECODE, *PREFILL), PREFILL, ())
    ]
    sums = np.array([[step.device_s(model) for model in models] for step in steps])
    return np.diff(sums, axis=1, prepend=0.0).clip(min=0.0)


def scaled(profile: Profile, factors: Factors) -> Profile:
    """The profile with its tables multiplied."""
    by_name = {name: factors.dense for name in profile.kernels if name not in UNSCALED}
    by_name |= dict.fromkeys(DECODE, factors.decode) | dict.fromkeys(PREFILL, factors.prefill)
    kernels = {
        name: _times(kernel, factors.shared * by_name.get(name, 1.0))
        for name, kernel in profile.kernels.items()
    }
    if factors.wide is not None:
        ratio = factors.wide / factors.dense
        kernels |= {
            name: _widened(kernel, ratio)
            for name, kernel in kernels.items()
            if name not in UNSCALED and "tokens" in kernel.axes
        }
    return replace(profile, kernels=kernels)


def least_ratio(profile: Profile) -> float:
    """Of `wide` to `dense` at the least: below it a table would fall past `MANY_TOKENS`, and what
    keeps it from that could not be undone (`inverse`).
    """
    ratios = [0.0]
    for name, kernel in profile.kernels.items():
        if name in UNSCALED or "tokens" not in kernel.axes or not kernel.seconds:
            continue
        pairs = list(zip(kernel.axes["tokens"], kernel.seconds, strict=True))
        few = [seconds for tokens, seconds in pairs if tokens <= MANY_TOKENS]
        many = [seconds for tokens, seconds in pairs if tokens > MANY_TOKENS]
        if few and many and many[0] > 0:
            ratios.append(few[-1] / many[0])
    return min(1.0, max(ratios))


def _widened(kernel: Kernel, ratio: float) -> Kernel:
    """The table past `MANY_TOKENS` multiplied; it still never falls."""
    pairs = zip(kernel.axes["tokens"], kernel.seconds or (), strict=True)
    seconds = [value * (ratio if tokens > MANY_TOKENS else 1.0) for tokens, value in pairs]
    return replace(kernel, seconds=tuple(np.maximum.accumulate(seconds).tolist()))


def fit_factors(parts: np.ndarray, seconds: np.ndarray) -> Factors:
    """Factors of steps that took `seconds` on the device."""
    return _fitted(parts, [], seconds)[0]


def fit_steps(
    parts: np.ndarray, host: Sequence[np.ndarray], seconds: np.ndarray
) -> tuple[Factors, list[float]]:
    """Factors of whole steps. Their host time is left free, and comes second: per step, and per
    unit of each column of `host`.
    """
    factors, free = _fitted(parts, [np.ones(len(seconds)), *host], seconds)
    return factors, free.tolist()


def _fitted(
    parts: np.ndarray, free: Sequence[np.ndarray], seconds: np.ndarray
) -> tuple[Factors, np.ndarray]:
    columns = np.column_stack([*free, parts])
    prior = np.array([0.0] * len(free) + [1.0] * 3)
    found = _solve(columns, seconds, prior, prior > 0)
    factors = np.where(parts.sum(axis=0) > 0, found[len(free) :], 1.0)
    clipped = (float(np.clip(value, LOWEST, HIGHEST)) for value in factors)
    return Factors(*clipped), found[: len(free)]


def entry(factors: Factors) -> dict[str, float]:
    """For a profile's `fit`."""
    pairs = zip(("dense", "decode", "prefill", "wide"), astuple(factors)[:4], strict=True)
    found = {name: value for name, value in pairs if value is not None}
    return found | ({"shared": factors.shared} if factors.shared > 1.0 else {})


def factors_of(entry: Mapping[str, float]) -> Factors:
    """What `entry` was made of."""
    own = entry["dense"], entry["decode"], entry["prefill"], entry.get("wide")
    return Factors(*own, entry.get("shared", 1.0))


def inverse(factors: Factors) -> Factors:
    """What takes a profile that was scaled by these back to its tables as they were measured."""
    wide = factors.dense if factors.wide is None else factors.wide
    own = 1 / factors.dense, 1 / factors.decode, 1 / factors.prefill, 1 / wide
    return Factors(*own, 1 / factors.shared)


def _solve(
    columns: np.ndarray, seconds: np.ndarray, prior: np.ndarray, pulled: np.ndarray
) -> np.ndarray:
    """Least squares of relative errors, outliers weighed down, no coefficient below zero."""
    trust = np.ones(len(seconds))
    used = np.ones(len(prior), dtype=bool)
    found = prior.copy()
    pull = np.sqrt(PULL * len(seconds)) * pulled
    for _ in range(ROUNDS):
        weight = trust / seconds
        rows = np.vstack([columns * weight[:, None], np.diag(pull)])
        wanted = np.concatenate([seconds * weight, pull * prior])
        some, *_ = np.linalg.lstsq(rows[:, used], wanted, rcond=None)
        found[:] = 0.0
        found[used] = some
        if (found < 0).any():
            used &= found >= 0
            continue
        errors = np.abs(columns @ found / seconds - 1)
        limit = OUTLIER * max(float(np.median(errors)), 1e-6)
        trust = np.sqrt(np.minimum(1.0, limit / np.maximum(errors, 1e-12)))
    return found.clip(min=0.0)


def _without(profile: Profile, names: Sequence[str]) -> Profile:
    kernels = {
        name: _times(kernel, 0.0) if name in names else kernel
        for name, kernel in profile.kernels.items()
    }
    return replace(profile, kernels=kernels)


def _times(kernel: Kernel, factor: float) -> Kernel:
    return replace(kernel, seconds=_table(kernel.seconds, factor))


def _table(seconds: Any, factor: float) -> Any:
    if isinstance(seconds, tuple):
        return tuple(_table(item, factor) for item in seconds)
    return None if seconds is None else seconds * factor
