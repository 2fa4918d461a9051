"""The parts by name, in the order in which they run."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from experiments.gpu_check.checks import Part


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a part is, and how it is run."""

    module: str
    seconds: float
    fast_seconds: float
    """With `--fast`."""
    artefacts: tuple[str, ...] = ()
    side_by_side: bool = False
    rehearsed: bool = False


ORDER: dict[str, Entry] = {
    "env": Entry("env", 60, 30),
    "kernels": Entry("kernels", 300, 50, side_by_side=True),
    "graphs": Entry("graphs", 120, 35, side_by_side=True),
    "speed": Entry("speed", 400, 90, rehearsed=True),
    "tune": Entry("tune", 200, 120, rehearsed=True),
    "train": Entry("train", 300, 100, ("train",)),
    "floors": Entry("floors", 500, 50),
    "calibrate-8b": Entry("calibrate", 500, 110, ("profiles",)),
    "run": Entry("runs", 500, 150, ("runs",)),
    "validate": Entry("validation", 300, 40, ("validation",)),
    "70b": Entry("large", 400, 90),
    "engines": Entry("engines", 400, 100),
}


def part(name: str, fast: bool) -> Part:
    """A part; its module is imported here, so that one that fails to import fails alone."""
    entry = ORDER[name]
    checks = import_module(f"experiments.gpu_check.{entry.module}").CHECKS
    seconds = entry.fast_seconds if fast else entry.seconds
    return Part(checks, seconds, entry.artefacts, entry.side_by_side, entry.rehearsed)
