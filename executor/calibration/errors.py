"""How far predicted steps are from measured ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from executor.calibration.host_time import HostFit
from executor.calibration.steps import Steps
from executor.step_log import Step
from superinfer.costs import CalibratedCost
from superinfer.costs.base import CostModel


def judged(
    steps: Steps, cost: CalibratedCost, launching: HostFit, host: HostFit
) -> dict[str, dict[str, float]]:
    """Errors of whole steps, for a profile's `fit`. Those of the driver are single ones, that
    nothing repeated.
    """
    decodes = [step for step in steps.unseen if not step.chunks]
    prefills = [step for step in steps.unseen if step.chunks]
    found = {
        "step": _entry(step_errors(steps.unseen, cost, launching)),
        "step_decode": _entry(step_errors(decodes, cost, launching)),
        "step_prefill": _entry(step_errors(prefills, cost, launching)),
        "driver_step": _entry(step_errors(steps.driven, cost, host)),
    }
    if queued := _queued_errors(steps.unseen, cost, launching):
        found["step_queued"] = _entry(queued)
    found["driver_step"]["mean"] = found["driver_step"].pop("heldout_mape", 0.0)
    return found


def step_errors(steps: Sequence[Step], cost: CostModel, host: HostFit) -> list[float]:
    """By how much the device's and the host's time together miss each step, as a share of it."""
    return [
        abs((step.device_s(cost) + host.seconds(step.sequences)) / step.seconds - 1)
        for step in steps
    ]


def _queued_errors(steps: Sequence[Step], cost: CalibratedCost, launching: HostFit) -> list[float]:
    """The same of steps that are queued ahead: the host's time is hidden, or all there is."""
    errors = []
    for step in steps:
        if step.queued_s is not None:
            device_s = step.device_s(cost) + cost.between_s
            predicted_s = max(launching.seconds(step.sequences), device_s)
            errors.append(abs(predicted_s / step.queued_s - 1))
    return errors


def _entry(errors: Sequence[float]) -> dict[str, float]:
    if not errors:
        return {"points": 0}
    return {
        "heldout_mape": float(np.mean(errors)),
        "heldout_median": float(np.median(errors)),
        "heldout_p90": float(np.quantile(errors, 0.9)),
        "points": len(errors),
    }
