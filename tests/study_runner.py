"""Runners for tests of studies: quick, and they write down which runs were begun and ended."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from records import Job, build

from superinfer.errors import SuperInferError
from superinfer.lab.config import Config, load_config
from superinfer.lab.results import write_run
from superinfer.lab.studies.differences import differences
from superinfer.lab.studies.study import Study, run_study
from superinfer.lab.tables import compare_table
from superinfer.metrics import RunMetrics
from superinfer.request import SLO

ARMS = {"plain": {}, "other": {"lag": 1}, "third": {"prefix_caching": True}}


@dataclass(frozen=True)
class Recorder:
    """Makes results that depend on the configuration and the seed alone, and logs each run."""

    log: Path
    pause_s: float = 0.0
    mischief: str = ""
    """What happens to the run of seed 2 of the first arm."""

    def __call__(self, config: Config, folder: Path) -> None:
        self.note("begin", config)
        time.sleep(self.pause_s)
        if config.run.seed == 2 and not config.run.lag and not config.run.prefix_caching:
            self.play(config)
        metrics = RunMetrics(record_of(config))
        summary = metrics.summary({"wall_s": time.time(), "scheduler_s": os.getpid()})
        write_run(folder, metrics, summary, config.resolved())
        self.note("end", config)

    def play(self, config: Config) -> None:
        first = not self.log.with_suffix(".done").exists()
        self.log.with_suffix(".done").touch()
        if self.mischief == "die" or (self.mischief == "die once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.mischief == "refuse":
            raise SuperInferError("no way\nthrough")
        if self.mischief == "break":
            raise ValueError("a bug")
        if self.mischief == "print":
            print("hello from a run")
        if self.mischief == "edit":
            Path(config.run.trace).write_text("edited")

    def note(self, what: str, config: Config) -> None:
        """One line, in one write: several processes log into the same file."""
        run = config.run
        line = f"{what} {run.seed} {run.lag} {run.prefix_caching:d} {os.getpid()}\n"
        handle = os.open(self.log, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        os.write(handle, line.encode())
        os.close(handle)


def no_result(config: Config, folder: Path) -> None:
    """A runner that forgets to write."""


def record_of(config: Config):  # type: ignore[no-untyped-def]
    """Twenty requests whose latencies the seed draws; each arm is a little faster."""
    random = np.random.RandomState(config.run.seed)
    faster = 1.0 - 0.2 * config.run.lag - 0.1 * config.run.prefix_caching
    ttft_s = random.gamma(2, 0.4, 20) * faster
    return build(
        [Job(i, 10, 1, i + t, i + t, slo=SLO(ttft_s=1.0)) for i, t in enumerate(ttft_s)], []
    )


def study(folder: Path, runner: Recorder, seeds: range = range(4), **options: object) -> Study:
    """Three arms over a trace of that folder."""
    trace = folder / "t.jsonl"
    if not trace.exists():
        trace.write_text("a trace that nobody reads\n")
    arms = {name: load_config(None, (), trace=str(trace), **run) for name, run in ARMS.items()}
    return Study(arms, folder / "root", runner, seeds, **{"workers": 1, **options})  # type: ignore[arg-type]


def table_bytes(made: Study) -> bytes:
    """The final table and all differences of a study, run to its end."""
    from rich.console import Console

    result = run_study(made)
    runs = {name: result.runs(name) for name in result.folders}
    found = differences(runs)
    console = Console(width=200, color_system=None, file=sys.stderr)
    with console.capture() as shown:
        console.print(compare_table([(n, r[0].summary) for n, r in runs.items()], found))
    return (shown.get() + repr([each.as_json() for each in found])).encode()


def main() -> None:
    """A study as a process of its own: folder, seconds per run, mischief."""
    where, pause = Path(sys.argv[1]), float(sys.argv[2])
    recorder = Recorder(where / "log", pause, sys.argv[3])
    sys.stdout.buffer.write(table_bytes(study(where, recorder, workers=2)))
