"""What `superinfer-sim` wrote, as the next line of a notebook finds it again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from superinfer.errors import InputError
from superinfer.lab.json_files import read_json
from superinfer.lab.other_folders import path_of, what_lies_in
from superinfer.lab.results import SUMMARY, Run, load_run
from superinfer.pipes import refuse_pipe

COMPARISON = "comparison.json"


def newest_folder(folder: Path | str) -> Path:
    """The latest result of a command with `--out folder`.

    A command leaves a folder that exists alone and writes to `folder-2`, `folder-3` and so on: so
    a cell that is run again has its result there. Raises InputError if there is none at all.
    """
    folder = path_of(folder, "a result folder")
    found = [(path.stat().st_mtime_ns, path.parent) for path in _results(folder)]
    if not found:
        raise InputError("expected a result folder here", file=str(folder))
    return max(found)[1]


def load_comparison(folder: Path | str) -> dict[str, list[Run]]:
    """The runs of `superinfer-sim compare` by arm, a run per seed, the reference first.

    This is what `compare_runs`, `summary_frame` and `plot_slo_attainment` take. Raises InputError
    for a folder of anything else, and where the summary of a run is missing or bad.
    """
    folder = path_of(folder, "a comparison")
    path = folder / COMPARISON
    if not path.exists():
        expected = "expected a comparison made by `superinfer-sim compare`"
        raise InputError(f"{expected}{what_lies_in(folder, COMPARISON)}", file=str(folder))
    refuse_pipe(path)

    def loaded(found: Any) -> dict[str, list[Run]]:
        return {
            name: [load_run(folder / run["folder"]) for run in runs]
            for name, runs in found["arms"].items()
        }

    return read_json(path, loaded, "what `compare` writes")


def _results(folder: Path) -> Iterator[Path]:
    """The file that each of the folders is known by."""
    numbered = re.compile(rf"{re.escape(folder.name)}(-\d+)?")
    if not folder.parent.is_dir():
        return
    for path in sorted(folder.parent.iterdir()):
        if numbered.fullmatch(path.name):
            yield from (path / name for name in (SUMMARY, COMPARISON) if (path / name).is_file())
