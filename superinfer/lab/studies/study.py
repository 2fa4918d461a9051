"""A study: arms x seeds, run in worker processes, each run stored once under what it depends on.

    study = Study({"vllm": one, "fcfs": other}, root=Path("studies/x"),
                  runner="sim.studies.compare:simulate_into", seeds=range(5))
    result = run_study(study)
    for run in result.runs("fcfs"):
        print(run.summary["slo_attainment"])

A run is stored under its key (`superinfer.lab.studies.content.Keys`), so a study that was stopped
at any moment and is started again runs only what is missing, and studies may share a folder, also
at the same time. A result appears under its key whole or not at all: it is written beside it and
renamed, under a lock that the system takes back when its holder dies.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from superinfer.errors import ConfigError
from superinfer.lab.cli.progress import Report, silent
from superinfer.lab.config import Config
from superinfer.lab.results import Run, load_run
from superinfer.lab.studies.content import Keys, Runner, load_runner
from superinfer.lab.studies.engines.base import ATTEMPTS, Died, StudyEngine, Tick
from superinfer.lab.studies.engines.processes import Processes
from superinfer.lab.studies.runs import (
    LOCKS,
    STAGED,
    Away,
    Passing,
    PlannedRun,
    RunTask,
    carry_out,
    carry_out_away,
    is_stored,
    keep,
    locked,
)
from superinfer.settings import is_integer, shown_value

WALL_CLOCK = ("wall_s", "scheduler_s", "sim_requests_per_wall_s")
"""Keys of a summary that differ between equal runs: no part of any comparison."""


@dataclass(slots=True, frozen=True)
class Study:
    """What is to be run. `seeds` replaces each arm's `run.seed`; empty: every arm keeps its own.

    `runner` is a picklable function, or its name as `package.module:function`. `inputs` are files
    that results depend on beside those that the configurations name.
    """

    arms: Mapping[str, Config]
    root: Path
    runner: str | Runner
    seeds: Sequence[int] = ()
    inputs: Sequence[Path] = ()
    workers: int = 0
    """Processes; 0: one per core."""
    engine: StudyEngine | None = None
    """Where runs are made; None: in `workers` processes of this machine."""

    def plan(self) -> list[PlannedRun]:
        """Every run, arm by arm in the order of seeds; InputError for an input that is missing."""
        keys = Keys(self.runner, self.inputs)
        return [
            PlannedRun(name, seeded.run.seed, seeded, keys.key(seeded), keys.content(seeded))
            for name, config in self.arms.items()
            for seeded in ([config.with_run(seed=seed) for seed in self.seeds] or [config])
        ]


@dataclass(slots=True, frozen=True)
class Failure:
    """A run that has no result, and why, in one line."""

    run: PlannedRun
    reason: str
    of_several: bool
    """Whether the arm has other seeds, so that the seed tells which run it was."""

    @property
    def passing(self) -> bool:
        """Whether the same run may have a result when it is started again."""
        return isinstance(self.reason, Passing)

    def __str__(self) -> str:
        seed = f", seed {self.run.seed}" if self.of_several else ""
        return f"arm {self.run.arm}{seed}: {self.reason}"


@dataclass(slots=True)
class StudyResult:
    """Where the results are, and which runs have none."""

    folders: dict[str, list[Path]]
    """Result folders of each arm without a failure, in the order of seeds."""
    failures: list[Failure] = field(default_factory=list)
    reused: int = 0
    """Results that were there before, of all that the study needs."""

    @property
    def exit_code(self) -> int:
        """0, or 1 if a run failed."""
        return 1 if self.failures else 0

    def runs(self, arm: str) -> list[Run]:
        """The stored runs of an arm, in the order of seeds; ConfigError if one of them failed."""
        if arm not in self.folders:
            raise ConfigError(f"arm {arm!r}: expected one of {', '.join(self.folders) or 'none'}")
        return [load_run(folder) for folder in self.folders[arm]]


def run_study(study: Study, report: Report = silent) -> StudyResult:
    """Run what is missing and return where everything is.

    A failure of one run does not stop the others. An interruption (KeyboardInterrupt) stops the
    workers and keeps what has ended. Raises ConfigError for a runner that cannot be imported and
    for seeds that are no different seeds, and InputError for an input that cannot be read.
    """
    _check(study)
    load_runner(study.runner)
    plan = study.plan()
    _open_root(study.root)
    missing = {run.key: run for run in plan if not is_stored(study.root, run.key)}
    faults = _run_all(study, list(missing.values()), report, len({run.key for run in plan}))
    _sweep(study.root)
    return _result(study, plan, faults, sum(run.key not in missing for run in plan))


# -- inside ---------------------------------------------------------------------------------------


def _run_all(
    study: Study, missing: Sequence[PlannedRun], report: Report, total: int
) -> dict[str, str]:
    """Run in worker processes; returns the reason of each failure by key."""
    tasks = [RunTask(run, study.runner, tuple(study.inputs), study.root) for run in missing]
    several = len(study.seeds) > 1
    names = [f"{run.arm} (seed {run.seed})" if several else run.arm for run in missing]
    before = total - len(missing)
    done, faults = before, dict[str, str]()

    def tick(running: list[int]) -> None:
        report(done, total, [names[number] for number in running])

    engine = study.engine or Processes(study.workers)
    with closing(_answers(engine, tasks, tick)) as answers:
        for number, answer in answers:
            done += 1
            reason = _DIED if isinstance(answer, Died) else answer
            if reason:
                faults[missing[number].key] = reason
    return faults


def _answers(
    engine: StudyEngine, tasks: Sequence[RunTask], tick: Tick
) -> Generator[tuple[int, str | Died], None, None]:
    """The number of each task that has ended, and why it has no result; an empty text if it has."""
    if engine.shares_files:
        yield from engine.run(carry_out, tasks, tick)
        return
    away = [Away(task, os.getcwd()) for task in tasks]
    with closing(engine.run(carry_out_away, away, tick)) as answers:
        for number, answer in answers:
            yield number, answer if isinstance(answer, Died) else keep(tasks[number], answer)


_DIED = Passing(f"its process died {ATTEMPTS} times (killed, or out of memory)")


def _result(
    study: Study, plan: Sequence[PlannedRun], faults: Mapping[str, str], reused: int
) -> StudyResult:
    several = len(study.seeds) > 1
    failures = [Failure(run, faults[run.key], several) for run in plan if run.key in faults]
    broken = {failure.run.arm for failure in failures}
    folders: dict[str, list[Path]] = {name: [] for name in study.arms if name not in broken}
    for run in plan:
        if run.arm in folders:
            folders[run.arm].append(study.root / run.key)
    return StudyResult(folders, failures, reused)


def _check(study: Study) -> None:
    """Refuse what cannot be, and a seed twice, which would count as two draws."""
    _expect("arms", study.arms, Mapping, "configurations by name")
    for name, arm in study.arms.items():
        _expect(f"arm {name}", arm, Config, "a configuration")
    _expect("root", study.root, Path, "a Path")
    _expect("seeds", study.seeds, Sequence, "a list of integers")
    _expect("inputs", study.inputs, Sequence, "a list of paths")
    if isinstance(study.engine, str):
        raise ConfigError(f"engine: expected engine_of({study.engine!r}), got the name alone")
    seeds = list(study.seeds)
    if any(type(seed) is not int or not 0 <= seed < 2**63 for seed in seeds):
        raise ConfigError(f"seeds: expected integers from 0 to 2**63 - 1, got {seeds}")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds: expected different ones, got {seeds}")
    if not is_integer(study.workers) or study.workers < 0:
        raise ConfigError(f"workers: expected an integer >= 0, got {shown_value(study.workers)}")


def _expect(name: str, given: object, kind: type, expected: str) -> None:
    if not isinstance(given, kind) or isinstance(given, str):
        raise ConfigError(f"{name}: expected {expected}, got {shown_value(given)}")


def _open_root(root: Path) -> None:
    """Make the folder of results ready."""
    try:
        (root / LOCKS).mkdir(parents=True, exist_ok=True)
        _sweep(root)
    except OSError as error:
        raise ConfigError(f"cannot write {root}: {error.strerror}") from None


def _sweep(root: Path) -> None:
    """Remove what killed runs left behind, but nothing that is being written."""
    for staged in (root / STAGED).glob("*"):
        with locked(root, staged.name, wait=False) as mine:
            if mine:
                shutil.rmtree(staged, ignore_errors=True)
