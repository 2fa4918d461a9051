"""Parts made of checks, run in processes of their own so that none can take the others along.

A kernel that reads out of bounds leaves its process without a usable device, and one that hangs
cannot be interrupted. So the parent never touches the device: it forks, the child runs the checks
of a part one after the other and writes each result at once, and where a child dies, breaks its
device or takes too long the parent books that check as failed and forks again for the rest.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Result = dict[str, Any]
Check = Callable[["Context"], Result]

BROKEN_DEVICE = ("CUDA error", "illegal memory access", "device-side assert", "unspecified launch")
POLL_S = 0.05


@dataclass(slots=True)
class Context:
    """What a check is given."""

    device: str
    """`cuda` or `cpu`."""
    seconds: float
    """Time for the whole part."""
    options: dict[str, Any]
    work: Path
    """A folder for files; `artefacts` of it go to the results."""
    cache: dict[str, Any] = field(default_factory=dict)
    """What checks of one part keep for each other, in one process."""

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


class Results:
    """`results.json`: every part and check that ran, written after each of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: dict[str, dict[str, Any]] = {}
        if path.is_file():
            self.data = json.loads(path.read_text(encoding="utf-8"))

    def reload(self) -> None:
        """Read what a child wrote."""
        if self.path.is_file():
            self.data = json.loads(self.path.read_text(encoding="utf-8"))

    def checks(self, part: str) -> dict[str, Result]:
        """Results of a part by check."""
        found: dict[str, Result] = self.data.setdefault(part, {"checks": {}})["checks"]
        return found

    def record(self, part: str, check: str, result: Result) -> None:
        """Put one result down, in one piece."""
        self.checks(part)[check] = result
        self.write()

    def write(self) -> None:
        """Replace the file, so that whoever reads it finds a whole one."""
        aside = self.path.with_suffix(".tmp")
        aside.write_text(json.dumps(_plain(self.data), indent=1), encoding="utf-8")
        os.replace(aside, self.path)


def run_part(name: str, part: Part, context: Context, results: Results) -> None:
    """Run the checks of a part that have no result that is `ok`; never raises for a check."""
    end_s = time.monotonic() + context.seconds
    found = results.checks(name)
    todo = [check for check in part.checks if not found.get(check, {}).get("ok")]
    for check in todo:
        found.pop(check, None)
    results.write()
    while todo:
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            for check in todo:
                results.record(name, check, {"ok": False, "error": "no time left"})
            return
        broke = _in_child(name, part, todo, (context, results, left_s))
        results.reload()
        found = results.checks(name)
        ran = [check for check in todo if found.get(check, {}).get("finished")]
        todo = [check for check in todo if check not in ran]
        if todo and broke:
            results.record(name, todo[0], {"ok": False, "finished": True, "error": broke})
            todo = todo[1:]


def _in_child(
    name: str, part: Part, todo: list[str], how: tuple[Context, Results, float]
) -> str:
    """Fork and run; the reason why the child did not get through, or nothing."""
    context, results, left_s = how
    process = multiprocessing.get_context("fork").Process(
        target=_child, args=(name, part, todo, context, results)
    )
    process.start()
    process.join(left_s)
    if process.is_alive():
        process.kill()
        process.join()
        return f"stopped after {left_s:.0f} s"
    if process.exitcode == 3:
        return ""
    return "" if process.exitcode == 0 else f"the process ended with {process.exitcode}"


def _child(
    name: str, part: Part, todo: list[str], context: Context, results: Results
) -> None:
    for check in todo:
        result = run_check(part.checks[check], context)
        results.record(name, check, result)
        print(f"  {name}.{check}: {line(result)}", flush=True)
        if any(sign in result.get("error", "") for sign in BROKEN_DEVICE):
            os._exit(3)
    os._exit(0)


def run_check(check: Check, context: Context) -> Result:
    """The result of a check, with its seconds; an exception is one that is not `ok`."""
    begin_s = time.perf_counter()
    try:
        result = {"ok": True, **check(context)}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001
        result = {
            "ok": False,
            "error": f"{type(error).__name__}: {error}"[:2000],
            "traceback": traceback.format_exc()[-6000:],
        }
    return {**result, "finished": True, "seconds": round(time.perf_counter() - begin_s, 3)}


def line(result: Result) -> str:
    """A result in one line."""
    if not result.get("ok"):
        reason = str(result.get("error") or result.get("why") or "not ok").splitlines()
        return f"FAILED {reason[0][:160] if reason else ''}"
    shown = {k: v for k, v in result.items() if isinstance(v, int | float | str)}
    shown = {k: v for k, v in shown.items() if k not in ("ok", "finished")}
    return "ok " + " ".join(f"{key}={_short(value)}" for key, value in list(shown.items())[:9])


def _short(value: Any) -> str:
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
