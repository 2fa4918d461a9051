"""Files that a study reads back: damaged, foreign and incomplete ones are one line and code 2."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from experiments.gpu_check.checks import Results
from experiments.headline import __main__ as headline
from experiments.headline.tune import tuned_of
from experiments.headline.workloads import WORKLOADS
from experiments.ladder import __main__ as ladder
from experiments.scenarios import __main__ as scenarios
from experiments.scenarios.tuning import tuned_arms
from experiments.studykit.options import study_options
from experiments.studykit.reading import earlier_parts, exit_code_of, fields_of, read_json
from experiments.studykit.record import SIMULATED
from experiments.tables.parts import recorded
from superinfer.errors import ConfigError

STUDIES = {"headline": headline, "scenarios": scenarios}
Damage = Callable[[dict[str, Any]], None]


def without_title(summary: dict[str, Any]) -> None:
    next(iter(summary["parts"].values())).pop("title")


def parts_of_a_list(summary: dict[str, Any]) -> None:
    summary["parts"] = [1, 2]


def no_version(summary: dict[str, Any]) -> None:
    del summary["version"]


@pytest.fixture(params=STUDIES)
def study(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ModuleType:
    """A study whose results lie in `out`, and which runs nothing."""
    module = STUDIES[request.param]
    (tmp_path / "out").mkdir()
    shutil.copyfile(SIMULATED / request.param / "summary.json", tmp_path / "out" / "summary.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["study", "--out", "out"])

    def refused(*_: object) -> None:
        raise AssertionError("a run was made")

    monkeypatch.setattr(module.RunCache, "runs", refused)
    return module


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"version": 1, "par', "expected JSON: "),
        ("", "expected JSON: "),
        ("[1, 2]", "expected a JSON object"),
        ('{"completed": 12}', "the field 'version' is missing"),
    ],
)
def test_a_summary_that_is_damaged_or_foreign(
    study: ModuleType, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    Path("out/summary.json").write_text(text)
    assert exit_code_of(study.main) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out/summary.json: ") and message in line
    assert Path("out/summary.json").read_text() == text, "it stays as it was"


@pytest.mark.parametrize("damage", [without_title, parts_of_a_list, no_version])
def test_a_summary_without_some_fields(
    study: ModuleType, capsys: pytest.CaptureFixture[str], damage: Damage
) -> None:
    summary = json.loads(Path("out/summary.json").read_text())
    summary["parts"] = dict(list(summary["parts"].items())[:1])
    damage(summary)
    Path("out/summary.json").write_text(json.dumps(summary))
    assert exit_code_of(study.main) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out/summary.json: ") and "field" in line


def test_a_folder_in_the_place_of_the_summary(
    study: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out/summary.json").unlink()
    Path("out/summary.json").mkdir()
    assert exit_code_of(study.main) == 2
    assert "cannot read: Is a directory" in capsys.readouterr().err


def test_what_is_whole_is_kept_and_another_version_is_not(tmp_path: Path) -> None:
    def written(folder: Path, parts: dict[str, Any], rests_on: object) -> None:
        (folder / "page").write_text(f"{parts['a']['title']} {rests_on}")

    parts = {"a": {"title": "A"}}
    text = json.dumps({"version": 3, "made_by": {}, "parts": parts})
    (tmp_path / "summary.json").write_text(text)
    assert earlier_parts(tmp_path, 3, written) == parts
    assert earlier_parts(tmp_path, 4, written) == {}
    assert earlier_parts(tmp_path / "none", 3, written) == {}


def test_a_damaged_file_of_tuned_settings(tmp_path: Path) -> None:
    path = tmp_path / "tuned.toml"
    workload = next(each for name, each in WORKLOADS.items() if name != "70b")
    with pytest.raises(ConfigError, match="has nothing for"):
        tuned_of(workload, path)
    path.write_text("[oops")
    for read in (lambda: tuned_of(workload, path), lambda: tuned_arms("m-pcie", path)):
        with pytest.raises(ConfigError, match=r"tuned.toml: expected TOML: "):
            read()


def test_the_loads_of_another_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    monkeypatch.setattr(ladder, "LOADS", path)
    with pytest.raises(ConfigError, match=r"summary.json: cannot read: No such file"):
        ladder.loads()
    path.write_text('{"parts": {}}')
    with pytest.raises(ConfigError, match=r"the field '.*' is missing"):
        ladder.loads()


def test_a_recorded_result_without_what_is_shown(tmp_path: Path) -> None:
    show = recorded("a.json", lambda found: (row["name"] for row in found["rows"]))
    (tmp_path / "a.json").write_text('{"rows": [{"name": "x"}, {}]}')
    with pytest.raises(ConfigError, match=r"a.json: the field 'name' is missing"):
        show(tmp_path)


def test_results_of_a_device_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"steps": 3}')
    with pytest.raises(ConfigError, match=r"results.json: a field is not as expected"):
        Results(tmp_path / "results.json")


def test_a_json_file_of_other_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"a.json: expected JSON: "):
        read_json(tmp_path / "a.json")
    with pytest.raises(ConfigError, match="one more"), fields_of(tmp_path / "a.json"):
        raise ConfigError("one more")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seeds", "0"), "argument --seeds: expected a whole number of at least 1, got '0'"),
        (("--seeds", "x"), "argument --seeds: expected a whole number of at least 1, got 'x'"),
        (("--workers", "-1"), "argument --workers: expected a whole number of at least 0"),
        (("--out", "file/x"), "argument --out: file/x: cannot write here: Not a directory"),
    ],
)
def test_options_of_a_study(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        study_options("some", "About it.", tmp_path / "out", 3).parse_args(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
