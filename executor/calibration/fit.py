"""From real steps to what a profile says beside its kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from executor.calibration.errors import judged
from executor.calibration.factors import (
    HIGHEST,
    LOWEST,
    MANY_TOKENS,
    Factors,
    entry,
    fit_factors,
    fit_steps,
    least_ratio,
    parts_of,
    scaled,
)
from executor.calibration.host_time import (
    DEVICE_SHARE,
    HostFit,
    between_s,
    host_fits,
    least_launch_s,
)
from executor.calibration.steps import Steps
from executor.step_log import Step
from superinfer.costs import CalibratedCost
from superinfer.costs.profile import HostCost, Profile
from superinfer.costs.shapes import ModelShape
from superinfer.lab.profiles.scale import with_host

CPU = "cpu"
"""The device of a profile that is none of a GPU."""
MOST_SHARED = 1.5
"""A CPU that is slowed down by more is no device to calibrate."""
DENSE_PART, PREFILL_PART = 0, 2
"""Columns of `parts_of`."""


def with_steps(profile: Profile, shape: ModelShape, steps: Steps) -> Profile:
    """The profile with its tables in line with real steps, its host time, and how well it predicts
    steps that it has not seen.
    """
    # Fitted anew: as a part of the kernels' time the old ones would be taken off the new ones.
    profile = replace(profile, host=replace(profile.host, chunked_s=0.0, next_chunk_s=0.0))
    factors, of_chunks = _factors(profile, shape, steps)
    chunked = replace(profile.host, chunked_s=of_chunks[0], next_chunk_s=of_chunks[1])
    profile = scaled(replace(profile, host=chunked), factors)
    cost = CalibratedCost(profile, shape)
    launching, host = host_fits(steps, cost)
    known = HostCost(
        host.step_s,
        host.per_sequence_s,
        "measured",
        launch_s=least_launch_s(steps, cost, launching, host),
        chunked_s=of_chunks[0],
        next_chunk_s=of_chunks[1],
        between_s=between_s(steps.fitted, launching),
    )
    profile = replace(profile, host=known)
    errors = judged(steps, CalibratedCost(profile, shape), launching, host)
    shared = shared_factor(profile, steps, cost, host)
    if shared > 1.0:
        profile = with_host(scaled(profile, Factors(shared=shared)), shared)
    in_step = entry(replace(factors, shared=shared))
    return replace(profile, fit={**profile.fit, **errors, "in_step": in_step})


def shared_factor(profile: Profile, steps: Steps, cost: CalibratedCost, host: HostFit) -> float:
    """On a CPU: by how much the driver's steps took longer, all together, than predicted.

    Tables and host time are fitted by medians, which a step that had to wait for a processor does
    not move; but a run waits for all of its steps. 1 on a GPU, or where steps took no longer.
    """
    known = [*steps.fitted, *steps.driven]
    if profile.device != CPU or any(step.replay_s is not None for step in known):
        return 1.0
    predicted_s = sum(s.device_s(cost) + host.seconds(s.sequences) for s in steps.driven)
    if not predicted_s:
        return 1.0
    measured_s = sum(step.seconds for step in steps.driven)
    return min(MOST_SHARED, max(1.0, measured_s / predicted_s))


def _factors(
    profile: Profile, shape: ModelShape, steps: Steps
) -> tuple[Factors, tuple[float, float]]:
    """On a GPU of replayed decodes, and of steps with chunks that are long on the device; where
    nothing is replayed of whole steps. What steps with chunks take beyond their kernels on a CPU
    comes second (`_of_whole_steps`).
    """
    fitted = steps.fitted
    replayed = [step for step in fitted if step.replay_s is not None and not step.chunks]
    if not replayed:
        return _of_whole_steps(profile, shape, fitted)
    device_s = np.array([step.replay_s for step in replayed])
    found = fit_factors(parts_of(profile, shape, replayed), device_s)
    few = [step for step in fitted if step.tokens <= MANY_TOKENS]
    found = replace(found, prefill=_prefill_factor(scaled(profile, found), shape, few or fitted))
    many = [step for step in (*fitted, *steps.driven) if step.tokens > MANY_TOKENS]
    ratio = _left_for(scaled(profile, found), shape, many, DENSE_PART)
    wide = found.dense * max(ratio, least_ratio(profile))
    return replace(found, wide=wide) if many else found, (0.0, 0.0)


def _of_whole_steps(
    profile: Profile, shape: ModelShape, steps: Sequence[Step]
) -> tuple[Factors, tuple[float, float]]:
    """With their host time left open. On a CPU alone steps with chunks take something more than
    their kernels: a second kind of attention is prepared, and chunk comes after chunk. The seconds
    of both (`HostCost.chunked_s`, `next_chunk_s`) come second.
    """
    host = [np.array([step.sequences for step in steps], dtype=float)]
    if profile.device == CPU:
        chunks = np.array([len(step.chunks) for step in steps], dtype=float)
        host += [chunks.clip(max=1), (chunks - 1).clip(min=0)]
    seconds = np.array([step.seconds for step in steps])
    factors, free = fit_steps(parts_of(profile, shape, steps), host, seconds)
    return factors, ((free[2], free[3]) if profile.device == CPU else (0.0, 0.0))


def _prefill_factor(profile: Profile, shape: ModelShape, steps: Sequence[Step]) -> float:
    """Of steps with chunks that the device takes long for, and attention a good part of that."""
    chunked = [step for step in steps if step.chunks]
    if not chunked:
        return 1.0
    parts, seconds = parts_of(profile, shape, chunked), _device_seconds(chunked)
    told = (parts.sum(axis=1) > DEVICE_SHARE * seconds) & (parts[:, 2] > 0.1 * seconds)
    some = [step for step, tells in zip(chunked, told, strict=True) if tells]
    return _left_for(profile, shape, some, PREFILL_PART)


def _left_for(profile: Profile, shape: ModelShape, steps: Sequence[Step], part: int) -> float:
    """By how much one part of steps takes longer than predicted if the others are right: the median
    of the steps, 1 without any.
    """
    if not steps:
        return 1.0
    parts = parts_of(profile, shape, steps)
    left_s = _device_seconds(steps) - np.delete(parts, part, axis=1).sum(axis=1)
    return min(HIGHEST, max(LOWEST, float(np.median(left_s / parts[:, part]))))


def _device_seconds(steps: Sequence[Step]) -> np.ndarray:
    """Of the replay, or of the whole step where there is none: then the device is what is waited
    for.
    """
    return np.array([s.seconds if s.replay_s is None else s.replay_s for s in steps])
