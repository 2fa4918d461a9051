"""Where calibration keeps a profile, and what it keeps before the whole one is there."""

from __future__ import annotations

from pathlib import Path

from superinfer.costs import Profile, write_profile
from superinfer.outputs import replacing

WITHOUT_STEPS = "without whole steps: times inside a step as alone, and assumed host time"
"""What is said of a profile of kernels and copies alone."""


def part_of(path: Path) -> Path:
    """Where a profile of kernels and copies alone lies until the whole one is at `path`, or for
    good if that never comes.
    """
    return path.with_name(f"{path.stem}.part{path.suffix}")


def store(profile: Profile, path: Path) -> None:
    """Write a profile whole or not at all."""
    with replacing(path) as staged:
        write_profile(profile, staged)
