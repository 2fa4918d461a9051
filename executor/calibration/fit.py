"""From real steps to what a profile says beside its kernels: factors, host time, launching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np

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
from executor.calibration.steps import Errors, HostFit, Steps, fit_host, predictions
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
DEVICE_SHARE = 0.7
"""Of a step that is launched kernel by kernel: where the device needs less of it, the step waits
for its launches; where it needs more than the rest, the launches wait for it."""


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
    launching = _host(steps.fitted, cost, HostFit(0.0, 0.0))
    planning = _host(steps.driven, cost, launching)
    host = HostFit(
        launching.step_s + planning.step_s, launching.per_sequence_s + planning.per_sequence_s
    )
    least_s = 0.0
    if _launched_one_by_one(steps.fitted):
        least_s = launch_seconds([(s, launching) for s in steps.fitted], cost)
        # Each step of the driver has a shape that nobody has run before.
        least_s = launch_seconds([(s, host) for s in steps.driven], cost) or least_s
    known = HostCost(
        host.step_s,
        host.per_sequence_s,
        "measured",
        launch_s=least_s,
        chunked_s=of_chunks[0],
        next_chunk_s=of_chunks[1],
        between_s=_between_s(steps.fitted, launching),
    )
    profile = replace(profile, host=known)
    judged = _judged(profile, shape, steps, launching, host)
    shared = shared_factor(profile, steps, cost, host)
    if shared > 1.0:
        profile = scaled(profile, Factors(shared=shared))
        profile = with_host(profile, shared)
    in_step = entry(replace(factors, shared=shared))
    return replace(profile, fit={**profile.fit, **judged, "in_step": in_step})


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


def _judged(
    profile: Profile, shape: ModelShape, steps: Steps, launching: HostFit, host: HostFit
) -> dict[str, dict[str, float]]:
    """Errors of whole steps. Those of the driver are single ones, that nothing repeated."""
    cost = CalibratedCost(profile, shape)
    found = {
        "step": predictions(steps.unseen, cost, launching).entry(),
        "step_decode": predictions(steps.unseen, cost, launching, skip_chunks=True).entry(),
        "step_prefill": predictions(steps.unseen, cost, launching, skip_chunks=False).entry(),
        "driver_step": predictions(steps.driven, cost, host).entry(),
    }
    if (queued := _queued_predictions(steps.unseen, cost, launching)).shares:
        found["step_queued"] = queued.entry()
    found["driver_step"]["mean"] = found["driver_step"].pop("heldout_mape", 0.0)
    return found


def _between_s(steps: Sequence[Step], launching: HostFit) -> float:
    """What steps that are queued ahead take beyond their replay: the median of those that the
    device takes longer for than the host; 0 without any.
    """
    found = [
        step.queued_s - step.replay_s
        for step in steps
        if step.queued_s is not None
        and step.replay_s is not None
        and launching.seconds(step.sequences) < step.replay_s
    ]
    return max(0.0, median(found)) if found else 0.0


def _queued_predictions(steps: Sequence[Step], cost: CalibratedCost, launching: HostFit) -> Errors:
    """Errors of steps that are queued ahead: the host's time is hidden, or all there is."""
    errors = Errors()
    for step in steps:
        if step.queued_s is not None:
            device_s = step.device_s(cost) + cost.between_s
            errors.add(max(launching.seconds(step.sequences), device_s), step.queued_s)
    return errors


def _launched_one_by_one(steps: Sequence[Step]) -> bool:
    """True on a GPU where no step with chunks comes from a graph. Where some do, all others are
    large, and it is the device that takes long for them.
    """
    replayed = [step for step in steps if step.replay_s is not None]
    return bool(replayed) and not any(step.chunks for step in replayed)


def launch_seconds(steps: Sequence[tuple[Step, HostFit]], cost: CalibratedCost) -> float:
    """Least time of a step with chunks: the median of those whose kernels take much less than the
    step, its host time left out. 0 if there are none.
    """
    found = []
    for step, host in steps:
        device_s = step.seconds - host.seconds(step.sequences)
        if step.chunks and step.device_s(cost) < DEVICE_SHARE * device_s:
            found.append(device_s)
    return median(found) if found else 0.0


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


def _host(steps: Sequence[Step], cost: CalibratedCost, known: HostFit) -> HostFit:
    """What steps of decodes alone take beyond kernels and `known`; of all steps if there are none.

    Steps with chunks may wait for their launches and would bring that into it.
    """
    plain = [step for step in steps if not step.chunks] or list(steps)
    devices = [s.device_s(cost) if s.replay_s is None else s.replay_s for s in plain]
    beside = [d + known.seconds(s.sequences) for s, d in zip(plain, devices, strict=True)]
    return fit_host(plain, beside)
