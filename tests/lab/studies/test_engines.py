"""Where the runs of studies are made."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inline_engine import Inline
from study_runner import Recorder, study

from superinfer.errors import ConfigError, SuperInferError
from superinfer.lab.studies import runs
from superinfer.lab.studies.engines import engine_of
from superinfer.lab.studies.engines.base import StudyEngine
from superinfer.lab.studies.engines.processes import Processes
from superinfer.lab.studies.engines.ray import RayTasks
from superinfer.lab.studies.study import Study, StudyResult, run_study


def test_engines_by_name() -> None:
    pytest.importorskip("ray")
    assert engine_of("processes", 3) == Processes(3)
    assert engine_of("ray", 2, "auto") == RayTasks("auto", 2)
    assert engine_of("processes").shares_files and not engine_of("ray").shares_files


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rai", 0, None), "--engine rai: expected one of processes, ray (did you mean 'ray'?)"),
        (("processes", 0, "auto"), "--address auto: expected --engine ray beside it"),
        (("processes", -1, None), "workers: expected an integer >= 0, got -1"),
        (("processes", "2", None), "workers: expected an integer >= 0, got '2'"),
        ((3, 0, None), "--engine 3: expected one of processes, ray"),
    ],
)
def test_what_is_no_engine(arguments: tuple[Any, Any, str | None], message: str) -> None:
    with pytest.raises(ConfigError) as failed:
        engine_of(*arguments)
    assert str(failed.value) == message


def test_workers_may_be_counted_by_numpy() -> None:
    assert engine_of("processes", np.int64(2)).workers == 2  # type: ignore[attr-defined]


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'superinfer\[ray\]'"):
        engine_of("ray")


# -- results that are sent ------------------------------------------------------------------------


def made_in(folder: Path, engine: StudyEngine, mischief: str = "") -> Study:
    folder.mkdir(exist_ok=True)
    return study(folder, Recorder(folder / "log", mischief=mischief), engine=engine)


def assert_equal_results(one: StudyResult, other: StudyResult) -> None:
    """The same requests for every arm and seed, and whole result folders."""
    assert list(one.folders) == list(other.folders) and not one.failures + other.failures
    for arm, folders in one.folders.items():
        for left, right in zip(folders, other.folders[arm], strict=True):
            assert {p.name for p in left.iterdir()} == {p.name for p in right.iterdir()}
            table = "requests.parquet"
            assert (left / table).read_bytes() == (right / table).read_bytes()


def test_sent_results_are_those_of_this_machine(tmp_path: Path) -> None:
    engine = Inline(shares_files=False)
    made = made_in(tmp_path / "away", engine)
    result = run_study(made)
    assert len(engine.tasks) == 12
    assert_equal_results(result, run_study(made_in(tmp_path / "here", Inline())))
    assert run_study(made).reused == 12 and len(engine.tasks) == 12, "nothing is sent for twice"
    assert not list((made.root / ".staged").iterdir())


def test_a_failure_elsewhere_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs.platform, "node", lambda: "machine-7")
    result = run_study(made_in(tmp_path / "away", Inline(shares_files=False), "refuse"))
    (failure,) = result.failures
    assert str(failure) == "arm plain, seed 2: on machine-7: no way through"
    assert list(result.folders) == ["other", "third"]


def test_another_program_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = made_in(tmp_path / "away", Inline(shares_files=False))
    first = replace(made.plan()[0], content="that of another version")
    task = runs.RunTask(first, made.runner, (), made.root)
    sent = runs.carry_out_away(runs.Away(task, str(tmp_path)))
    assert "expected the same source and input files" in sent.reason and not sent.files
    assert isinstance(sent.reason, runs.Passing), "the machine is at fault"
    sent = runs.carry_out_away(runs.Away(task, str(tmp_path / "absent")))
    assert f"expected the folder {tmp_path / 'absent'}" in sent.reason


# -- a real cluster -------------------------------------------------------------------------------


@pytest.fixture
def ray_tasks(monkeypatch: pytest.MonkeyPatch) -> RayTasks:
    """A cluster of this machine with two cores, whose tasks find the modules of the tests."""
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return RayTasks(workers=2)


@pytest.mark.slow
def test_a_local_ray_cluster_gives_the_same(tmp_path: Path, ray_tasks: RayTasks) -> None:
    made = made_in(tmp_path / "ray", ray_tasks)
    result = run_study(made)
    assert_equal_results(result, run_study(made_in(tmp_path / "here", Inline())))
    assert run_study(made).reused == 12, "and goes on from what is there"
    ray = pytest.importorskip("ray")
    assert not ray.is_initialized()
    with ray_tasks.session():
        again = made_in(tmp_path / "again", ray_tasks)
        one = replace(again, arms={"plain": again.arms["plain"]})
        assert not run_study(one).failures and ray.is_initialized()
        assert run_study(again).reused == 4, "the same cluster goes on"
    assert not ray.is_initialized(), "what was started is stopped"
    lines = (tmp_path / "ray" / "log").read_text().splitlines()
    assert len([line for line in lines if line.startswith("begin")]) == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mischief", "reason"),
    [
        ("refuse", "no way through"),
        ("break", "ValueError: a bug (study_runner.py:"),
        ("die", "its process died 2 times (killed, or out of memory)"),
    ],
)
def test_a_failing_ray_task_is_told_and_harms_no_other(
    tmp_path: Path, ray_tasks: RayTasks, mischief: str, reason: str
) -> None:
    result = run_study(made_in(tmp_path / "ray", ray_tasks, mischief))
    (failure,) = result.failures
    assert failure.run.seed == 2 and reason in failure.reason
    assert list(result.folders) == ["other", "third"]


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path, ray_tasks: RayTasks) -> None:
    absent = replace(ray_tasks, address="127.0.0.1:1")
    with pytest.raises(
        SuperInferError, match=r"--engine ray: cannot use 127\.0\.0\.1:1: "
    ) as failed:
        run_study(made_in(tmp_path / "ray", absent))
    assert "\n" not in str(failed.value)
