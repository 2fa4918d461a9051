"""The command of a study whose one option of its own is how many seeds it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.studykit.options import study_options
from experiments.studykit.record import SIMULATED, made_by, write_result
from experiments.studykit.run_cache import RunCache
from experiments.tables.parts import Numbers
from superinfer.lab.cli.terminal import say

VERSION = 1
"""Of the form of `summary.json`."""


@dataclass(slots=True, frozen=True)
class SeededStudy:
    """What `python -m experiments.NAME` runs and writes.

    Runs are kept in `runs/NAME`, so a study that was stopped goes on from there; the results are in
    `experiments/results/simulated/NAME`.
    """

    name: str
    about: str
    seeds: int
    """Unless `--seeds` says otherwise."""
    measure: Callable[[RunCache, Sequence[int]], Numbers]
    """What `summary.json` holds beside its version and what it rests on."""
    page: Callable[[dict[str, Any]], str]
    draw: Callable[[Numbers, Path], None]
    """Draws the picture into a folder."""
    rests_on: Callable[[int], Numbers]
    """With so many seeds, what the numbers rest on beside the command, versions and sources."""

    def main(self) -> int:
        """Run everything and write the files."""
        options = study_options(
            self.name, self.about, SIMULATED / self.name, self.seeds
        ).parse_args()
        cache = RunCache(Path("runs") / self.name, options.workers)
        found = self.measure(cache, range(options.seeds))
        command = f"python -m experiments.{self.name} --seeds {options.seeds}"
        self.write(options.out, found, made_by(command, **self.rests_on(options.seeds)))
        say(f"results in {options.out}")
        return 0

    def write(self, out: Path, found: Numbers, rests_on: Numbers) -> None:
        """The files of the result: `summary.json`, `results.md` and the picture."""
        summary = {"version": VERSION, "made_by": rests_on, **found}
        self.draw(write_result(out, summary, self.page), out)
