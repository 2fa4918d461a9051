"""What is said of a folder that has no result of a run of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from superinfer.errors import InputError
from superinfer.lab.other_folders import what_lies_in
from superinfer.lab.results import load_run

RESULT = "summary.json"


def with_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("file", "command"),
    [("sweep.json", "sweep"), ("tune.json", "tune"), ("plan.json", "plan")],
)
def test_a_study_that_keeps_its_runs(tmp_path: Path, file: str, command: str) -> None:
    told = what_lies_in(with_files(tmp_path / "s", file, f"points/a/{RESULT}"), RESULT)
    assert told.startswith(f": {tmp_path}/s is of `superinfer-sim {command}`: {file} has what")
    assert f"with --out {tmp_path}/s shows it again" in told
    assert told.endswith(f"its runs are {tmp_path}/s/points/a")


def test_a_comparison_and_an_analysis(tmp_path: Path) -> None:
    """Both are not repeated into the same folder."""
    names = ("comparison.json", *(f"{arm}/{RESULT}" for arm in "cab"))
    told = what_lies_in(with_files(tmp_path / "c", *names), RESULT)
    assert told.endswith(f"its runs are {tmp_path}/c/a, {tmp_path}/c/b and 1 more")
    assert "--out" not in told
    told = what_lies_in(with_files(tmp_path / "s", "sensitivity.json"), RESULT)
    assert told.endswith(
        "/s is of `superinfer-sim sensitivity`: sensitivity.json has what came out"
    )


@pytest.mark.parametrize("runs", ["points", "study", ".study"])
def test_a_study_that_was_stopped(tmp_path: Path, runs: str) -> None:
    told = what_lies_in(with_files(tmp_path, f"{runs}/a/{RESULT}"), RESULT)
    assert "holds a study that was stopped; the command that began it goes on" in told


def test_others(tmp_path: Path) -> None:
    assert what_lies_in(tmp_path, RESULT) == ""
    assert what_lies_in(tmp_path / "no", RESULT) == f": there is no folder {tmp_path}/no"
    with_files(tmp_path, "file", f"a/{RESULT}", f"b/{RESULT}")
    assert what_lies_in(tmp_path / "file", RESULT) == f": {tmp_path}/file is no folder"
    told = f": below {tmp_path} are the results {tmp_path}/a, {tmp_path}/b"
    assert what_lies_in(tmp_path, RESULT) == told


@pytest.mark.parametrize("place", ["no", "file"])
def test_who_reads_a_run_says_it(tmp_path: Path, place: str) -> None:
    with_files(tmp_path, "file")
    with pytest.raises(InputError, match=r"expected a result f.*(is no folder|there is no folder)"):
        load_run(tmp_path / place)
