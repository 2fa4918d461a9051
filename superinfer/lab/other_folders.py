"""What a folder holds that lacks the result that was looked for, and what reads it instead."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from superinfer.errors import ConfigError
from superinfer.settings import shown_value

_KEPT: Final = {"sweep.json": "sweep", "tune.json": "tune", "plan.json": "plan"}
"""Studies that keep their runs, by the file with their outcome."""
_WHOLE: Final = {"comparison.json": "compare", "sensitivity.json": "sensitivity"}
_RUNS: Final = ("points", "study", ".study")
"""Folders of a study in which its runs lie."""


def what_lies_in(folder: Path, result: str) -> str:
    """Why a folder lacks the file `result`, as the end of a message; may be empty."""
    if not folder.is_dir():
        return f": {folder} is no folder" if folder.exists() else f": there is no folder {folder}"
    for outcome, command in {**_KEPT, **_WHOLE}.items():
        if (folder / outcome).exists():
            return f": {folder} is of `superinfer-sim {command}`{_way_on(folder, outcome, result)}"
    if any((folder / name).is_dir() for name in _RUNS):
        again = f"the command that began it goes on from there with --out {folder}"
        return f": {folder} holds a study that was stopped; {again}"
    runs = _runs_in(folder, result)
    return f": below {folder} are the results {_listed(runs)}" if runs else ""


def path_of(given: object, what: str) -> Path:
    """A path that is given from Python, to `what`; ConfigError for anything else."""
    if not isinstance(given, str | os.PathLike):
        raise ConfigError(f"expected the path of {what}, got {shown_value(given)}")
    return Path(given)


# -- inside ---------------------------------------------------------------------------------------


def _way_on(folder: Path, outcome: str, result: str) -> str:
    told = [f"{outcome} has what came out"]
    if outcome in _KEPT:
        told.append(f"the same command with --out {folder} shows it again and runs nothing twice")
    runs = [run for name in (*_RUNS, ".") for run in _runs_in(folder / name, result)]
    told += [f"its runs are {_listed(runs)}"] if runs else []
    return ": " + "; ".join(told)


def _runs_in(folder: Path, result: str) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"[!.]*/{result}"))


def _listed(runs: list[Path]) -> str:
    few = ", ".join(map(str, runs[:2]))
    return f"{few} and {len(runs) - 2} more" if len(runs) > 2 else few
