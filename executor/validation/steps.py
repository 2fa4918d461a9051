"""Steps of a device's run against what the simulator would have given each of them.

A run as a whole can be off because steps take other times, or because other steps were taken. Here
every step that the device took is priced by itself, whatever the simulated run did.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from executor.clocks.clock import step_seconds
from executor.step_log import Logged, Step, read_steps
from executor.validation.runs import model_of, summary
from superinfer.costs import StepCost, build_cost, find_device, load_profile, load_shape
from superinfer.lab.results import STEPS

DECODES, PROMPTS, WAITED = "decodes", "with prompts", "behind copies"
BOUNDS = {DECODES: (8, 32, 128), PROMPTS: (128, 512, 1024, 2048)}
"""Rows of a group at the most; what has more is a group of its own."""


@dataclass(slots=True)
class StepGroup:
    """Steps of one kind and size."""

    kind: str
    rows: str
    """Tokens computed in a step of it."""
    steps: int = 0
    measured_s: float = 0.0
    simulated_s: float = 0.0
    apart_s: float = 0.0
    """By which single steps are off, without sign."""
    share: float = 0.0
    """Of all measured time."""
    kernels_s: float = 0.0
    """What kernels alone take by the profile."""

    @property
    def error(self) -> float:
        """How far all of them together are off, as a share."""
        return self.simulated_s / self.measured_s - 1 if self.measured_s else 0.0

    @property
    def scatter(self) -> float:
        """How far single ones are off on average, weighed by their time."""
        return self.apart_s / self.measured_s if self.measured_s else 0.0

    def add(self, measured_s: float, simulated_s: float, kernels_s: float) -> None:
        """One more step."""
        self.steps += 1
        self.kernels_s += kernels_s
        self.measured_s += measured_s
        self.simulated_s += simulated_s
        self.apart_s += abs(simulated_s - measured_s)

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "error": self.error, "scatter": self.scatter}


def step_groups(devices: Sequence[Path], profile: Path) -> list[StepGroup]:
    """The steps of some runs of the same thing by kind and size; none if a folder has no record."""
    if not all((folder / STEPS).is_file() for folder in devices):
        return []
    run = summary(devices[0])["run"]["run"]
    device = find_device(load_profile(profile).device, str(profile))
    cost = build_cost(load_shape(model_of(run["model"])), device, run["tp"], str(profile))
    logged = [step for folder in devices for step in read_steps(folder / STEPS)]
    return grouped(logged, cost, run["lag"])


def grouped(logged: Sequence[Logged], cost: StepCost, lag: int) -> list[StepGroup]:
    """Steps that were read, by kind and size."""
    found = {name: StepGroup(*name) for name in _names()}
    for step, waited_bytes in logged:
        simulated_s = step_seconds(cost, lag, *step.work)
        found[_name(step, waited_bytes)].add(step.seconds, simulated_s, step.device_s(cost))
    total_s = sum(group.measured_s for group in found.values())
    for group in found.values():
        group.share = group.measured_s / total_s if total_s else 0.0
    return [group for group in found.values() if group.steps]


def group_lines(groups: Sequence[StepGroup]) -> Iterator[str]:
    """A table; nothing where there are no groups."""
    if groups:
        yield (
            f"  {'steps':14} {'rows':>14} {'count':>8} {'of time':>8} {'ms':>9} "
            f"{'error':>8} {'scatter':>8}"
        )
    for group in groups:
        yield (
            f"  {group.kind:14} {group.rows:>14} {group.steps:8,} {group.share:8.1%} "
            f"{1e3 * group.measured_s / group.steps:9.3f} {group.error:+8.1%} {group.scatter:8.1%}"
        )


def _names() -> Iterator[tuple[str, str]]:
    for kind, bounds in BOUNDS.items():
        yield from ((kind, _rows(kind, most)) for most in (*bounds, bounds[-1] + 1))
    yield WAITED, ""


def _name(step: Step, waited_bytes: int) -> tuple[str, str]:
    if waited_bytes:
        return WAITED, ""
    kind = PROMPTS if step.chunks else DECODES
    return kind, _rows(kind, step.tokens)


def _rows(kind: str, tokens: int) -> str:
    least = 1
    for most in BOUNDS[kind]:
        if tokens <= most:
            return f"{least:,} to {most:,}"
        least = most + 1
    return f"{least:,} and more"
