"""Device and simulator, policy by policy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from executor.validation.compare import Metric, compare, extent, lines, middle
from executor.validation.runs import Summary, run_device, simulate, summary
from executor.validation.steps import StepGroup, group_lines, step_groups
from superinfer.lab.notices.trust import range_warning
from superinfer.lab.pictures.side_by_side import write_plot

RANKED = {"mean_ttft_ms": -1, "mean_e2el_ms": -1, "slo_attainment": 1}
"""Metrics in which policies are compared: 1 where more is better."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What to compare."""

    trace: str
    profile: Path
    schedulers: tuple[str, ...]
    options: tuple[str, ...]
    """Of `superinfer-exec run`."""
    repeats: int
    out: Path


@dataclass(slots=True)
class Outcome:
    """One policy on both sides."""

    scheduler: str
    devices: list[Path]
    simulated: Path
    metrics: list[Metric] = field(default_factory=list)
    extents: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Smallest and largest of the runs on the device, by metric of all requests."""
    yardsticks: list[dict[str, float]] = field(default_factory=list)
    """Of each run on the device that the steady clock timed (`timers.SteadyTimer.report`)."""
    trust: dict[str, Any] = field(default_factory=dict)
    """Of the simulated run: above all, whether it went further than the profile was measured."""
    steps: list[StepGroup] = field(default_factory=list)
    """Each step of the device's runs as the simulator would have timed it."""

    @classmethod
    def of(
        cls, scheduler: str, devices: list[Path], simulated: Path, profile: Path | None = None
    ) -> Outcome:
        """Compare result folders that are there, and with the simulated run's `profile` steps."""
        measured: list[Summary] = [summary(folder) for folder in devices]
        other = summary(simulated)
        found = cls(scheduler, devices, simulated, compare(middle(measured), other))
        found.trust = other.get("trust", {})
        found.steps = step_groups(devices, profile) if profile else []
        runs = [one.get("run", {}) for one in measured]
        found.yardsticks = [run["yardstick"] for run in runs if "yardstick" in run]
        for metric in found.metrics:
            if not metric.service_class and (ends := extent(measured, metric.name)):
                found.extents[metric.name] = ends
        return found

    def fails(self, max_error: float) -> bool:
        """True if any metric is off by more than it may be, or if there is none to judge."""
        judged = [metric for metric in self.metrics if metric.limit(max_error) is not None]
        return not judged or any(metric.fails(max_error) for metric in judged)

    def value(self, name: str, simulated: bool) -> float | None:
        """A metric of all requests."""
        for metric in self.metrics:
            if metric.name == name and not metric.service_class and metric.known:
                return metric.simulated if simulated else metric.device
        return None

    def apart(self, other: Outcome, name: str) -> bool:
        """True if all runs of one policy on the device are better than all of the other one."""
        (low, high), (other_low, other_high) = self.extents[name], other.extents[name]
        return high < other_low or other_high < low

    def plot(self, out: Path) -> Path:
        """Draw the first run on the device beside the simulated one."""
        title = f"{self.scheduler}: device and simulator on the same trace"
        return write_plot(self.devices[0], self.simulated, out / f"{self.scheduler}.png", title)

    def row(self, max_error: float | None) -> dict[str, Any]:
        """For JSON."""
        return {
            "scheduler": self.scheduler,
            "repeats": len(self.devices),
            "metrics": [metric.row() for metric in self.metrics],
            "extent_of_repeats": self.extents,
            **({"yardsticks": self.yardsticks} if self.yardsticks else {}),
            "trust": self.trust,
            **({"steps": [group.row() for group in self.steps]} if self.steps else {}),
            "failed": None if max_error is None else self.fails(max_error),
        }

    def lines(self, max_error: float | None) -> Iterator[str]:
        """A table."""
        yield f"{self.scheduler} ({len(self.devices)} runs on the device)"
        if self.yardsticks:
            medians = ", ".join(f"{one['median']:.2f}" for one in self.yardsticks)
            lows, highs = ([one[name] for one in self.yardsticks] for name in ("p5", "p95"))
            yield (
                f"  times are at the profile's speed; the yardstick took {medians} times as long, "
                f"90% of its samples {min(lows):.2f} to {max(highs):.2f}"
            )
        if warning := range_warning(self.trust):
            yield f"  simulated: {warning}"
        yield from lines(self.metrics, max_error)
        yield from group_lines(self.steps)


def validate_all(wish: Wish, say: Callable[[str], None]) -> list[Outcome]:
    """Run every policy on both sides. The repeats of the policies take turns, so that a change of
    the machine's speed meets all of them. After Ctrl-C, say which of them are there; where none is,
    no folder is left.
    """
    folders: dict[str, list[Path]] = {name: [] for name in wish.schedulers}
    absent = [folder for folder in (wish.out, *wish.out.parents) if not folder.exists()]
    try:
        return _both_sides(wish, folders, say)
    except KeyboardInterrupt:
        done = [folder.name for each in folders.values() for folder in each]
        say(f"kept in {wish.out}: {', '.join(done)}" if done else "no run was done, none is kept")
        raise
    finally:
        for empty in absent:
            with suppress(OSError):
                empty.rmdir()


def _both_sides(
    wish: Wish, folders: Mapping[str, list[Path]], say: Callable[[str], None]
) -> list[Outcome]:
    """`validate_all`, with the folders of the runs on the device as they come."""
    for repeat in range(wish.repeats):
        for name in wish.schedulers:
            say(f"{name} on the device, {repeat + 1} of {wish.repeats}")
            out = _fresh(wish.out / f"device-{name}-{repeat + 1}")
            options = ["--scheduler", name, *wish.options]
            folders[name].append(run_device(wish.trace, options, wish.profile, out))
    outcomes = []
    for name, devices in folders.items():
        say(f"{name} simulated")
        simulated = simulate(devices[0], wish.profile, _fresh(wish.out / f"simulated-{name}"))
        outcomes.append(Outcome.of(name, devices, simulated, wish.profile))
    return outcomes


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which policies are best by a metric; several if they are equal, or if on the device their
    repeated runs overlap with those of the best one.
    """

    metric: str
    device: tuple[str, ...]
    simulated: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """True if whoever wins in simulation wins on the device, too: simulated as equal, policies
        may not be told apart there.
        """
        return set(self.simulated) <= set(self.device)

    @property
    def line(self) -> str:
        """In words."""
        device, simulated = " and ".join(self.device), " and ".join(self.simulated)
        word = "agree" if self.agrees else "differ"
        return f"best by {self.metric}: {device} on the device, {simulated} simulated ({word})"


def winners(outcomes: list[Outcome]) -> list[Verdict]:
    """Which policy is best on each side, by each metric that all have; none for a single policy."""
    verdicts: list[Verdict] = []
    for name, sign in RANKED.items():
        device, simulated = (_best(outcomes, name, sign, side) for side in (False, True))
        if len(outcomes) > 1 and device and simulated:
            verdicts.append(Verdict(name, device, simulated))
    return verdicts


def gate(outcomes: list[Outcome], max_error: float) -> bool:
    """True if no metric is off by more than it may be, and if nobody wins in simulation alone."""
    close = not any(outcome.fails(max_error) for outcome in outcomes)
    return close and all(verdict.agrees for verdict in winners(outcomes))


def _best(outcomes: list[Outcome], name: str, sign: int, simulated: bool) -> tuple[str, ...]:
    """The best policies; none if one of them has no such metric."""
    values = {outcome.scheduler: outcome.value(name, simulated) for outcome in outcomes}
    known = {key: sign * value for key, value in values.items() if value is not None}
    if len(known) < len(outcomes):
        return ()
    if simulated:
        return tuple(key for key, value in known.items() if value == max(known.values()))
    best = max(outcomes, key=lambda one: known[one.scheduler])
    return tuple(one.scheduler for one in outcomes if not one.apart(best, name))


def _fresh(folder: Path) -> Path:
    """A folder of an earlier validation gives way."""
    if (folder / "summary.json").is_file():
        shutil.rmtree(folder)
    return folder
