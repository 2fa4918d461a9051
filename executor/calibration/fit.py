"""From real steps to what a profile says beside its kernels: factors, host time, launching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from executor.calibration.factors import (
    HIGHEST,
    LOWEST,
    Factors,
    entry,
    fit_factors,
    parts_of,
    scaled,
)
from executor.calibration.steps import HostFit, Step, Steps, fit_host, predictions
from superinfer.costs import CalibratedCost
from superinfer.costs.profile import HostCost, Profile
from superinfer.costs.shapes import ModelShape

DEVICE_SHARE = 0.7
"""Of a step that is launched kernel by kernel: where the device needs less of it, the step waits
for its launches; where it needs more than the rest, the launches wait for it."""


def with_steps(profile: Profile, shape: ModelShape, steps: Steps) -> Profile:
    """The profile with its tables in line with real steps, its host time, and how well it predicts
    steps that it has not seen.
    """
    factors = _factors(profile, shape, steps.fitted)
    profile = scaled(profile, factors)
    cost = CalibratedCost(profile, shape)
    launching = _host(steps.fitted, cost, HostFit(0.0, 0.0))
    planning = _host(steps.driven, cost, launching)
    host = HostFit(
        launching.step_s + planning.step_s, launching.per_sequence_s + planning.per_sequence_s
    )
    least_s = 0.0
    if any(step.replay_s is not None for step in steps.fitted):
        least_s = launch_seconds([(s, launching) for s in steps.fitted], cost)
        # Each step of the driver has a shape that nobody has run before.
        least_s = launch_seconds([(s, host) for s in steps.driven], cost) or least_s
    known = HostCost(host.step_s, host.per_sequence_s, "measured", least_s)
    profile = replace(profile, host=known)
    return replace(
        profile,
        fit={**profile.fit, **_judged(profile, shape, steps, launching, host)}
        | {"in_step": entry(factors)},
    )


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
    found["driver_step"]["mean"] = found["driver_step"].pop("heldout_mape", 0.0)
    return found


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


def _factors(profile: Profile, shape: ModelShape, steps: Sequence[Step]) -> Factors:
    """On a GPU of replays alone, and of steps with chunks that are long on the device; on a CPU of
    whole steps, with their host time left open.
    """
    replayed = [step for step in steps if step.replay_s is not None]
    if not replayed:
        sequences = np.array([step.sequences for step in steps], dtype=float)
        seconds = np.array([step.seconds for step in steps])
        return fit_factors(parts_of(profile, shape, steps), sequences, seconds)
    device_s = np.array([step.replay_s for step in replayed])
    found = fit_factors(parts_of(profile, shape, replayed), np.zeros(0), device_s)
    return replace(found, prefill=_prefill_factor(scaled(profile, found), shape, steps))


def _prefill_factor(profile: Profile, shape: ModelShape, steps: Sequence[Step]) -> float:
    """Of steps with chunks that the device takes long for, and attention a good part of that."""
    eager = [step for step in steps if step.chunks]
    if not eager:
        return 1.0
    parts = parts_of(profile, shape, eager)
    seconds = np.array([step.seconds for step in eager])
    told = (parts.sum(axis=1) > DEVICE_SHARE * seconds) & (parts[:, 2] > 0.1 * seconds)
    if not told.any():
        return 1.0
    left_s = seconds[told] - parts[told, :2].sum(axis=1)
    return min(HIGHEST, max(LOWEST, float(np.median(left_s / parts[told, 2]))))


def _host(steps: Sequence[Step], cost: CalibratedCost, known: HostFit) -> HostFit:
    """What steps of decodes alone take beyond kernels and `known`; of all steps if there are none.

    Steps with chunks may wait for their launches and would bring that into it.
    """
    plain = [step for step in steps if not step.chunks] or list(steps)
    devices = [s.device_s(cost) if s.replay_s is None else s.replay_s for s in plain]
    beside = [d + known.seconds(s.sequences) for s, d in zip(plain, devices, strict=True)]
    return fit_host(plain, beside)
