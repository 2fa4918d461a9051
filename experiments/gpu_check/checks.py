"""Parts made of checks, run in processes of their own so that none can take the others along.

A kernel that reads out of bounds leaves its process without a usable device, and one that hangs
cannot be interrupted. So the parent never touches the device: it forks children that run checks and
leave each result in a file; where a child dies, breaks its device or takes too long the parent
books the check that ran as failed and forks again for the rest.

Checks of correctness run side by side. Those of speed run one after the other, but are first
rehearsed side by side, so that no kernel is compiled while the clock runs.
"""

from __future__ import annotations

import ctypes
import json
import math
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from experiments.studykit.reading import fields_of, read_json

Result = dict[str, Any]
Check = Callable[["Context"], Result]

BROKEN_DEVICE = ("CUDA error", "illegal memory access", "device-side assert", "unspecified launch")
POLL_S = 0.05
NO_TIME = ("no time left", "stopped: no time left")
"""Errors of checks that did not come to run, or not to their end."""
HANDOVER_S = 1.0
"""A check that goes by its deadline needs it for what it is at then, and for its result."""
KILLED_S = 10.0
"""For a process that is killed, at the most: a driver whose device hangs may keep it."""
BROKE = 3
"""Exit code of a child whose device is of no use any more."""


@dataclass(slots=True)
class Context:
    """What a check is given."""

    device: str
    """`cuda` or `cpu`."""
    seconds: float
    """Time for the whole part."""
    options: dict[str, Any]
    work: Path
    """A folder for files; a part's artefacts in it go to the results."""
    rehearsal: bool = False
    """True if only kernels are to be compiled: nothing is measured for long."""
    cache: dict[str, Any] = field(default_factory=dict)
    """What checks of one part keep for each other, in one process."""
    end_s: float = math.inf
    """When the part is over, on the clock of `time.monotonic`."""
    keep: Callable[[Result], None] = lambda result: None
    """Told what a check has come to, for the case that it never comes to its end."""

    def kept(self, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """All rows; each is kept when it is there."""
        found: list[dict[str, Any]] = []
        for row in rows:
            found.append(row)
            self.keep({"rows": found})
        return found

    @property
    def left_s(self) -> float:
        """Seconds in which a check has to be done to leave its result: those of the part, less what
        the checks before it took.
        """
        return min(self.seconds, self.end_s - time.monotonic() - HANDOVER_S)

    @property
    def tiny(self) -> bool:
        """True where sizes are those of a test: the CPU is asked, which is not what this is for."""
        return self.device == "cpu"


@dataclass(frozen=True, slots=True)
class Part:
    """Checks by name, in order."""

    checks: Mapping[str, Check]
    seconds: float
    """Time for all of it, fork and start of the device included."""
    artefacts: tuple[str, ...] = ()
    """Files and folders under the working folder that belong to the results."""
    side_by_side: bool = False
    rehearsed: bool = False


class Results:
    """`results.json`: every part and check that ran, written after each of them. ConfigError for a
    file that is there and holds none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recorded: Callable[[], None] = lambda: None
        """Called when a result is down."""
        self.data: dict[str, dict[str, Any]] = {}
        if path.is_file():
            self.data = read_json(path)
            with fields_of(path):
                for found in self.data.values():
                    dict(found["checks"])

    def checks(self, part: str) -> dict[str, Result]:
        """Results of a part by check."""
        found: dict[str, Result] = self.data.setdefault(part, {"checks": {}})["checks"]
        return found

    def record(self, part: str, check: str, result: Result) -> None:
        """Put one result down, in one piece."""
        self.checks(part)[check] = result
        print(f"  {part}.{check}: {line(result)}", flush=True)
        self.write()
        self.recorded()

    def write(self) -> None:
        """Replace the file, so that whoever reads it finds a whole one."""
        _write(self.path, self.data)


def run_part(
    name: str, part: Part, context: Context, results: Results, again: bool = False
) -> None:
    """Run the checks of a part that have no result that is `ok`, or `again` all of them; never
    raises for a check. What is known is kept until there is something newer.
    """
    end_s = context.end_s = time.monotonic() + context.seconds
    found = results.checks(name)
    todo = [check for check in part.checks if again or not found.get(check, {}).get("ok")]
    before = {check: found.get(check) for check in todo}
    if part.rehearsed:
        rehearsal = Crew(name, part, replace(context, rehearsal=True), None)
        # Each process takes seconds to begin with the device, so none has more than it has to.
        hands = [todo[first :: rehearsal.width] for first in range(rehearsal.width)]
        rehearsal.run(hands, time.monotonic() + context.seconds * 0.5)
    crew = Crew(name, part, context, results)
    crew.run([[check] for check in todo] if part.side_by_side else [todo], end_s)
    for check, earlier in before.items():
        newer = found.get(check) is not earlier
        if newer and found[check].get("error") not in NO_TIME:
            continue
        if earlier is not None and earlier.get("ok"):
            results.record(name, check, {**earlier, "earlier": True})
        elif not newer:
            results.record(name, check, {"ok": False, "error": NO_TIME[0]})


class Crew:
    """Children that run lists of checks, at most so many at a time."""

    def __init__(self, name: str, part: Part, context: Context, results: Results | None) -> None:
        self.name, self.part, self.context, self.results = name, part, context, results
        self.inbox = context.work / "inbox" / f"{name}-{'r' if results is None else 'c'}"
        self.inbox.mkdir(parents=True, exist_ok=True)
        self.width = 2 if context.tiny else 16

    def run(self, lists: list[list[str]], end_s: float) -> None:
        """Run them all, or until the time is over."""
        waiting, running = [found for found in lists if found], dict[Any, list[str]]()
        try:
            while (waiting or running) and time.monotonic() < end_s:
                while waiting and len(running) < self.width:
                    checks = waiting.pop(0)
                    running[self._start(checks)] = checks
                time.sleep(POLL_S)
                for process in [process for process in running if not process.is_alive()]:
                    rest = self._ended(process, running.pop(process))
                    if rest:
                        waiting.insert(0, rest)
                self._collect()
        finally:  # also where this process is told to end: nothing must stay on the device
            for process in running:
                end(process)
            self._collect()
        for checks in running.values():
            self._blame(checks, NO_TIME[1])

    def _start(self, checks: list[str]) -> Any:
        process = multiprocessing.get_context("fork").Process(
            target=self._child, args=(checks, os.getpid())
        )
        with warnings.catch_warnings():
            # Python 3.12 warns of threads at a fork; the parent's do nothing with the device.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        return process

    def _ended(self, process: Any, checks: list[str]) -> list[str]:
        """Book what a child did; the checks that it did not come to."""
        process.join()
        done = self._collect()
        if process.exitcode not in (0, BROKE):
            done |= self._blame(checks, f"the process ended with {process.exitcode}")
        return [check for check in checks if check not in done]

    def _blame(self, checks: list[str], why: str) -> set[str]:
        """The first check without a result is the one that ran."""
        seen = self._seen()
        guilty = [check for check in checks if check not in seen][:1]
        for check in guilty:
            _write(self.inbox / f"{check}.json", {**self._kept(check), "ok": False, "error": why})
        self._collect()
        return self._seen()

    def _kept(self, check: str) -> Result:
        """What a check has come to so far."""
        part = self.inbox / f"{check}.part"
        return dict(json.loads(part.read_text(encoding="utf-8"))) if part.is_file() else {}

    def _seen(self) -> set[str]:
        return {path.stem for path in self.inbox.glob("*.json")} | self._taken()

    def _taken(self) -> set[str]:
        return {path.stem for path in self.inbox.glob("*.done")}

    def _collect(self) -> set[str]:
        """Take in what lies in the inbox; all checks that have a result."""
        for path in sorted(self.inbox.glob("*.json")):
            result = json.loads(path.read_text(encoding="utf-8"))
            path.rename(path.with_suffix(".done"))
            if self.results is not None:
                self.results.record(self.name, path.stem, result)
        return self._taken()

    def _child(self, checks: list[str], parent: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        end_with(parent)
        for check in checks:
            keep = partial(_write, self.inbox / f"{check}.part")
            context = replace(self.context, keep=keep)
            result = {**run_check(self.part.checks[check], context), **used_device()}
            if not result["ok"]:
                result = {**self._kept(check), **result}
            _write(self.inbox / f"{check}.json", result)
            if any(sign in result.get("error", "") for sign in BROKEN_DEVICE):
                os._exit(BROKE)
        os._exit(0)


def run_check(check: Check, context: Context) -> Result:
    """The result of a check, with its seconds; an exception is one that is not `ok`."""
    begin_s = time.perf_counter()
    try:
        result = {"ok": True, **check(context)}
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        result = {
            "ok": False,
            "error": f"{type(error).__name__}: {error}"[:2000],
            "traceback": traceback.format_exc()[-6000:],
        }
    return {**result, "seconds": round(time.perf_counter() - begin_s, 3)}


def used_device() -> Result:
    """The name of the GPU that this process has used, if it has: results of two calls may be of two
    machines.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    try:
        return {"device": torch.cuda.get_device_name()}
    except RuntimeError:  # a check has broken it
        return {}


def end(process: Any) -> None:
    """End a child at once."""
    process.kill()
    process.join(KILLED_S)


def end_with(parent: int) -> None:
    """End this process with the one that started it, however that ends (`PR_SET_PDEATHSIG`): a
    check or a run that is left behind would keep the device's memory from whatever comes next.
    """
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that was said
        os._exit(1)


def line(result: Result) -> str:
    """A result in one line."""
    if not result.get("ok"):
        reason = str(result.get("error") or result.get("why") or "not ok").splitlines()
        return f"FAILED {reason[0][:160] if reason else ''}"
    shown = {k: v for k, v in result.items() if isinstance(v, int | float | str)}
    shown = {k: v for k, v in shown.items() if k != "ok"}
    return "ok " + " ".join(f"{key}={short(value)}" for key, value in list(shown.items())[:9])


def short(value: Any) -> str:
    """A figure as tables show it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """JSON knows no NaN and no infinity, and keys are strings."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, int | float | str | bool | None) else str(value)


def _write(path: Path, data: Any) -> None:
    """Write JSON so that nobody ever finds half of it."""
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    aside.write_text(json.dumps(_plain(data), indent=1), encoding="utf-8")
    os.replace(aside, path)
