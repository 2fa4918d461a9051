"""One run of a study, where it is made: a result appears under its key whole or not at all."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from superinfer.errors import SuperInferError
from superinfer.lab.config import Config
from superinfer.lab.results import SUMMARY
from superinfer.lab.studies.content import Keys, Runner, load_runner

LOCKS, STAGED = ".locks", ".staged"
"""Folders beside the results of a study."""


class Passing(str):
    """Why a run has no result, where the machine or the moment was at fault and not the
    configuration: started again, the same run may have one.
    """

    __slots__ = ()


class PassingError(SuperInferError):
    """A run that cannot be made here and now."""


@dataclass(slots=True, frozen=True)
class PlannedRun:
    """One run of a study, and the key of its result."""

    arm: str
    seed: int
    config: Config
    key: str
    content: str
    """Hash of the files and the source that the key stands for."""


@dataclass(slots=True, frozen=True)
class RunTask:
    """What a worker is given."""

    run: PlannedRun
    runner: str | Runner
    inputs: tuple[Path, ...]
    root: Path


def carry_out(task: RunTask) -> str:
    """In a worker: make one result unless it is there; returns why not, or an empty text."""
    root = task.root

    def make() -> None:
        with locked(root, task.run.key):
            if not is_stored(root, task.run.key):
                _make(task, root / STAGED / task.run.key)

    return _why_not(make)


@dataclass(slots=True, frozen=True)
class Sent:
    """A result folder on its way, as the bytes of each file by its name, or why there is none."""

    reason: str
    files: Mapping[str, bytes] = field(default_factory=dict)

    def unpack(self, folder: Path) -> None:
        """Write the files into a new folder."""
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


@dataclass(slots=True, frozen=True)
class Away:
    """A task for a process that shares no folder of results with us."""

    task: RunTask
    cwd: str
    """Where relative paths begin."""


def carry_out_away(away: Away) -> Sent:
    """Make one result in a folder of its own, and send it. The machine must have the same source
    and the same input files at the same paths as the one that asks.
    """
    with tempfile.TemporaryDirectory(prefix="superinfer-") as folder:
        made = Path(folder) / "run"

        def make() -> None:
            _come_to(away)
            _run_into(away.task, made)

        if reason := _why_not(make):
            return Sent(type(reason)(f"on {platform.node()}: {reason}"))
        files = (path for path in sorted(made.rglob("*")) if path.is_file())
        return Sent("", {path.relative_to(made).as_posix(): path.read_bytes() for path in files})


def _come_to(away: Away) -> None:
    """Work where the study was started, with what it was started with."""
    try:
        os.chdir(away.cwd)
    except OSError as error:
        raise PassingError(f"expected the folder {away.cwd}: {error.strerror}") from None
    if away.cwd not in sys.path:  # for policies given as package.module:Class
        sys.path.append(away.cwd)
    task = away.task
    if Keys(task.runner, task.inputs).content(task.run.config) != task.run.content:
        raise PassingError(
            "expected the same source and input files as where the study was started"
        )


def _why_not(make: Callable[[], None]) -> str:
    """Why `make` failed, in one line; an empty text if it did not."""
    try:
        make()
    except PassingError as error:
        return Passing(error)
    except SuperInferError as error:
        return " ".join(str(error).split())
    except (OSError, MemoryError) as error:  # such as a full disk
        return Passing(_described(error))
    except Exception as error:  # whatever a policy of the user's raises
        return _described(error)
    return ""


def keep(task: RunTask, sent: Sent) -> str:
    """Put what a task away from here has sent into its place; returns why there is nothing."""
    if sent.reason:
        return sent.reason
    root, key = task.root, task.run.key
    try:
        with locked(root, key):
            if not is_stored(root, key):
                _make(task, root / STAGED / key, lambda _, folder: sent.unpack(folder))
    except OSError as error:
        return Passing(f"cannot write {root / key}: {error.strerror}")
    return ""


def _run_into(task: RunTask, folder: Path) -> None:
    load_runner(task.runner)(task.run.config, folder)
    _check(task, folder)


def _make(task: RunTask, staged: Path, write: Callable[[RunTask, Path], None] = _run_into) -> None:
    """Write a result beside its place and move it there; the key's lock is held."""
    shutil.rmtree(staged, ignore_errors=True)  # of a run that was killed
    staged.mkdir(parents=True)
    try:
        write(task, staged / "run")
        target = task.root / task.run.key
        shutil.rmtree(target, ignore_errors=True)  # without a summary it is no result
        (staged / "run").rename(target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _check(task: RunTask, folder: Path) -> None:
    """Store nothing under a key that is not true any more."""
    if not (folder / SUMMARY).is_file():
        raise SuperInferError(f"expected a result folder with {SUMMARY} from {task.runner!r}")
    if Keys(task.runner, task.inputs).content(task.run.config) != task.run.content:
        raise PassingError("source code or an input file changed during the run: start it again")


def _described(error: Exception) -> str:
    """An unexpected error and the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def is_stored(root: Path, key: str) -> bool:
    """Whether the result of a key is there, which it is whole or not at all."""
    return (root / key / SUMMARY).is_file()


@contextmanager
def locked(root: Path, key: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a key, whoever else uses the folder; False if it is taken and not `wait`."""
    handle = os.open(root / LOCKS / key, os.O_CREAT | os.O_RDWR)
    try:
        yield _flock(handle, wait)
    finally:
        os.close(handle)


def _flock(handle: int, wait: bool) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
