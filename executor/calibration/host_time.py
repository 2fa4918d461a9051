"""What steps take beyond their kernels: host time, launches, and gaps between steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from executor.calibration.steps import Steps
from executor.step_log import Step
from superinfer.costs import CalibratedCost

DEVICE_SHARE = 0.7
"""Of a step that is launched kernel by kernel: where the device needs less of it, the step waits
for its launches; where it needs more than the rest, the launches wait for it."""


@dataclass(frozen=True, slots=True)
class HostFit:
    """Seconds beside the kernels: `step_s + per_sequence_s * sequences`."""

    step_s: float
    per_sequence_s: float

    def seconds(self, sequences: int) -> float:
        """Of one step."""
        return self.step_s + self.per_sequence_s * sequences


def fit_host(steps: Sequence[Step], beside: Sequence[float]) -> HostFit:
    """A line through the seconds that each step took beside what is known of it.

    The steps are put into groups by the number of their sequences and each group counts with its
    median, so that a step that something else disturbed does not count. Neither part is negative.
    """
    groups: dict[int, list[float]] = {}
    for step, known_s in zip(steps, beside, strict=True):
        groups.setdefault(_group(step.sequences), []).append(step.seconds - known_s)
    if not groups:
        return HostFit(0.0, 0.0)
    x = np.array(sorted(groups), dtype=float)
    y = np.array([median(groups[int(n)]) for n in x])
    weights = np.sqrt([len(groups[int(n)]) for n in x])
    slope = 0.0
    if len(x) > 1:
        slope = max(0.0, float(np.polyfit(x, y, 1, w=weights)[0]))
    base = float(np.average(y - slope * x, weights=weights**2))
    if base < 0.0:
        slope = max(0.0, float((weights**2 * x * y).sum() / (weights**2 * x * x).sum()))
        base = 0.0
    return HostFit(base, slope)


def _group(sequences: int) -> int:
    """Powers of the square root of two."""
    return round(2 ** (round(2 * math.log2(max(1, sequences))) / 2))


def host_fits(steps: Steps, cost: CalibratedCost) -> tuple[HostFit, HostFit]:
    """What launching a step takes, and what a step of the driver takes, planning included."""
    launching = _beside(steps.fitted, cost, HostFit(0.0, 0.0))
    planning = _beside(steps.driven, cost, launching)
    return launching, HostFit(
        launching.step_s + planning.step_s, launching.per_sequence_s + planning.per_sequence_s
    )


def _beside(steps: Sequence[Step], cost: CalibratedCost, known: HostFit) -> HostFit:
    """What steps of decodes alone take beyond kernels and `known`; of all steps if there are none.

    Steps with chunks may wait for their launches and would bring that into it.
    """
    plain = [step for step in steps if not step.chunks] or list(steps)
    devices = [s.device_s(cost) if s.replay_s is None else s.replay_s for s in plain]
    beside = [d + known.seconds(s.sequences) for s, d in zip(plain, devices, strict=True)]
    return fit_host(plain, beside)


def least_launch_s(
    steps: Steps, cost: CalibratedCost, launching: HostFit, driving: HostFit
) -> float:
    """Least time of a step with chunks where these are launched kernel by kernel; else 0."""
    if not _launched_one_by_one(steps.fitted):
        return 0.0
    of_batches_s = launch_seconds([(s, launching) for s in steps.fitted], cost)
    # Each step of the driver has a shape that nobody has run before.
    return launch_seconds([(s, driving) for s in steps.driven], cost) or of_batches_s


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


def between_s(steps: Sequence[Step], launching: HostFit) -> float:
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
