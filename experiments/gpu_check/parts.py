"""The parts by name, in the order in which they run."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from experiments.gpu_check.checks import Part

LAST_S = 10.0
"""Kept for the part that ends a call."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a part is, and how it is run."""

    module: str
    """Below this package, and behind a colon the name of the part's checks, if not `CHECKS`."""
    seconds: float
    """At the most; what it has not come to then, it says."""
    fast_seconds: float
    """The same with `--fast`."""
    about_s: float
    """What it takes with `--fast`: on an H200, or where no device has run it a guess."""
    artefacts: tuple[str, ...] = ()
    side_by_side: bool = False
    rehearsed: bool = False


def _profiles(model: str) -> tuple[str, ...]:
    """The whole one, or what a calibration that ran out of time has come to."""
    return f"profiles/{model}.json", f"profiles/{model}.part.json"


ORDER: dict[str, Entry] = {
    "env": Entry("env", 60, 20, 11),
    "kernels": Entry("kernels.part", 300, 40, 14, side_by_side=True),
    "floors": Entry("floors", 500, 45, 23),
    "calibrate-8b": Entry("calibrate", 500, 110, 95, _profiles("llama-3.1-8b")),
    "graphs": Entry("graphs", 120, 30, 16, side_by_side=True),
    "tokens": Entry("tokens", 300, 110, 95, side_by_side=True),
    "showcase": Entry("showcase", 200, 40, 12),
    "70b": Entry("large", 400, 35, 20),
    "calibrate-70b": Entry("large:PROFILE", 500, 150, 130, _profiles("llama-3.1-70b")),
    "memcheck": Entry("memcheck", 300, 45, 29, side_by_side=True),
    "scenarios": Entry("scenarios.run:SCENARIOS", 500, 220, 165, ("runs/{check}",)),
    "run": Entry("scenarios.run", 500, 90, 65, ("runs/{check}",)),
    "validate": Entry("scenarios.validation", 300, 30, 10, ("validation",), side_by_side=True),
    "gain": Entry("scenarios.validation:SUMMARIES", 60, 15, 4),
    "peers": Entry("speed.peers", 300, 60, 29, rehearsed=True),
    "tune": Entry("tune.part", 200, 120, 96, rehearsed=True),
    "speed": Entry("speed.part", 400, 90, 60, rehearsed=True),
    "train": Entry("train", 300, 100, 66, ("train",)),
    "serve": Entry("serve", 200, 60, 30),
    "engines": Entry("engines", 400, 100, 60),
    "marks": Entry("marks", 30, LAST_S, 1),
}
"""In the order in which they matter: is it right, how fast are whole steps, what does the simulator
say; then what looks for better tiles, and others."""
CALLS: dict[str, tuple[str, ...]] = {
    "a": (
        *("env", "kernels", "graphs", "floors", "serve", "tune", "tokens", "peers", "memcheck"),
        *("showcase", "marks"),
    ),
    "b": (
        *("kernels", "graphs", "floors", "calibrate-8b", "scenarios", "70b", "calibrate-70b"),
        "marks",
    ),
}
"""Two calls for a device that is there for minutes, each with what a short one must not lack first.

The first: what has to be known before anything is mended, and by what the second one may `--adopt`
kernels. The second: whether all is right with those and how fast, a profile, which is worth its
time (in 40 s it gets too few points), the runs that go by that, and the 70B as far as time is left.
What needs no device (`validate`, `gain`) is no part of them."""


def part(name: str, fast: bool) -> Part:
    """A part; its module is imported here, so that one that fails to import fails alone."""
    entry = ORDER[name]
    module, _, named = entry.module.partition(":")
    found = import_module(f"experiments.gpu_check.{module}")
    checks = getattr(found, named or "CHECKS")
    seconds = entry.fast_seconds if fast else entry.seconds
    return Part(checks, seconds, entry.artefacts, entry.side_by_side, entry.rehearsed)
