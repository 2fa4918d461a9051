"""The folder of a study of the command line.

One that is `claimed` is ours alone and resumable until it is finished. One that is `kept` keeps its
runs, so that the same command, or a larger one, goes on from there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sim.commands import check_folder
from superinfer.errors import ConfigError
from superinfer.lab.cli.terminal import say
from superinfer.lab.results import SUMMARY
from superinfer.lab.studies.content import Runner
from superinfer.lab.studies.study import Study
from superinfer.outputs import replacing

STUDY = ".study"
"""Where the runs lie until all are there."""
_LOCK = ".lock"


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """The folder if it is new or holds a comparison to go on with, else `folder-2` and so on.

    It is ours alone until the end of the block. If nothing has come of it, it is removed.
    """
    check_folder(folder)
    absent = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    root, number = folder, 1
    while (handle := _lock(root)) is None:
        number += 1
        root = folder.with_name(f"{folder.name}-{number}")
    try:
        yield root
    finally:
        if (root / STUDY).exists() and not any((root / STUDY).glob(f"*/{SUMMARY}")):
            shutil.rmtree(root / STUDY)
        os.close(handle)
        for empty in {root: 0, **dict.fromkeys(absent)}:
            with suppress(OSError):
                empty.rmdir()


def check_kept(root: Path, runs: str) -> None:
    """A folder of results is ours to go on with if it holds the folder `runs` (ConfigError)."""
    check_folder(root)
    if root.exists() and any(root.iterdir()) and not (root / runs).is_dir():
        raise ConfigError(f"--out: expected a new folder, or one to go on with: {root}")


@contextmanager
def kept(root: Path) -> Iterator[None]:
    """After Ctrl-C, say how to go on. A new folder in which no run came to its end is removed."""
    new = not root.exists()
    try:
        yield
    except KeyboardInterrupt:
        if next(root.rglob(SUMMARY), None):
            say(f"what has been run is kept: the same command with --out {root} goes on from there")
        elif new:
            shutil.rmtree(root, ignore_errors=True)
        raise


def fed_runner(
    make: Callable[[Path | None], Runner], path: Path, stdin: bytes | None
) -> tuple[Runner, list[Path]]:
    """The runner of a study, made with the file `path` of what standard input gave, which workers
    do not have, and the `inputs` of the study: that file. Without `stdin` there is none.
    """
    if stdin is None:
        return make(None), []
    with replacing(path) as staged:
        staged.write_bytes(stdin)
    return make(path), [path]


def write_outcome(path: Path, text: str) -> None:
    """Write the JSON of a study, whole or not at all."""
    with replacing(path) as staged:
        staged.write_text(text + "\n", encoding="ascii")


def _lock(root: Path) -> int | None:
    """The lock of an unfinished or new comparison; None if the folder holds anything else."""
    if root.exists() and not (root / STUDY).is_dir():
        return None
    (root / STUDY).mkdir(parents=True, exist_ok=True)
    handle = os.open(root / STUDY / _LOCK, os.O_CREAT | os.O_RDWR)
    with suppress(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_nlink:  # else it was finished in between
            return handle
    os.close(handle)
    return None


@contextmanager
def resumable(study: Study, root: Path) -> Iterator[None]:
    """After Ctrl-C, say what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        kept = len(list(study.root.glob(f"*/{SUMMARY}")))
        if kept:
            runs = "1 run is" if kept == 1 else f"{kept} runs are"
            say(f"{runs} kept: the same command with --out {root} goes on from there")
        raise


def finish(root: Path) -> None:
    """Leave the results alone behind: from here on there is nothing to go on with."""
    done = (root / STUDY).rename(root / f"{STUDY}-done")
    shutil.rmtree(done)
