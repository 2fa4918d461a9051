"""Commands in processes that tests kill, and what is left of their runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

COUNTING = '''
import os
import time
from dataclasses import dataclass

from superinfer.schedulers.fcfs import FcfsScheduler


@dataclass
class Counting(FcfsScheduler):
    """Writes down every simulation that is begun, and takes its time."""

    pause_s: float = 0.0
    begun: bool = False

    def plan(self, view, now):
        if not self.begun:
            self.begun = True
            time.sleep(self.pause_s)
            with open(os.environ["COUNTING_LOG"], "a") as log:
                log.write(f"{os.getpid()}\\n")
        return super().plan(view, now)
'''
"""Source of a scheduler, to be written to a file `counting.py`."""


def process(*arguments: str) -> subprocess.Popen[str]:
    """A command in a process group of its own."""
    return python("-m", "sim", *arguments)


def environment() -> dict[str, str]:
    """The environment of a process that finds this checkout and the helpers of its tests."""
    tests = Path(__file__).parent
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(tests), str(tests.parent)))}


def python(*arguments: str) -> subprocess.Popen[str]:
    """The interpreter in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def stored(root: Path) -> dict[str, tuple[int, bytes]]:
    """By key, when each result was made and what it says, wall clock and all."""
    found = root.glob("points/*/summary.json")
    return {path.parent.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def until(condition: Callable[[], object], running: subprocess.Popen[str] | None = None) -> None:
    """Wait for something that another process does."""
    for _ in range(3600):
        if condition():
            return
        assert running is None or running.poll() is None, running.communicate()[1]
        time.sleep(0.05)
    raise AssertionError("it did not happen within three minutes")


def none_works(log: Path) -> bool:
    """Whether all processes have ended that were told to log there; workers end with their parent,
    but not at once, and Ray's are in no group of its.
    """
    wanted = f"COUNTING_LOG={log}\0".encode()
    return not any(wanted in _environment_of(process) for process in Path("/proc").glob("[0-9]*"))


def _environment_of(process: Path) -> bytes:
    """Empty for a process that has ended or is another user's."""
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""
