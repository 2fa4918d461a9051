"""The study of a command that keeps its runs: every point of a sweep, every trial of a tuning."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sim.studies.compare import Simulate
from sim.studies.folder import fed_runner
from sim.studies.seeds import seeds_from
from superinfer.lab.config import RunConfig
from superinfer.lab.studies.engines.base import StudyEngine
from superinfer.lab.studies.study import Study

POINTS = "points"
"""Folder of the result folders, each under its key."""
_STDIN = "stdin"


def study_of_points(
    root: Path, stdin: bytes | None, run: RunConfig, seeds: int, engine: StudyEngine
) -> Study:
    """A study without arms as yet, whose runs stay below `root`; with several seeds they follow
    that of `run`.
    """
    folder = root / POINTS
    runner, inputs = fed_runner(partial(Simulate, False), folder / _STDIN, stdin)
    return Study({}, folder, runner, seeds_from(run, seeds), inputs, engine=engine)
