"""The trials of a tuning: the same whatever happens, and only those of one task."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from superinfer.errors import ConfigError
from superinfer.lab.studies.axes import Value
from superinfer.lab.studies.pareto import pareto_front
from superinfer.lab.studies.space import Choices, Range
from superinfer.lab.studies.tuning import STUDY, Task, Trial, opened, require_optuna

pytest.importorskip("optuna")

ROOT = Path(__file__).parents[3]
SPACE = {
    "scheduler.x": Range(0.0, 1.0),
    "scheduler.n": Range(1, 64, log=True, whole=True),
    "scheduler.way": Choices(("left", "right")),
}
TASK = Task(
    ("slo_attainment", "p99_ttft_ms"),
    SPACE,
    {"scheduler.x": 0.5, "scheduler.n": 8, "scheduler.way": "left"},
    seed=3,
    identity={"config": {"run": {"rate_scale": 1.0}}},
)


def measured(params: dict[str, Value]) -> tuple[float, float] | None:
    """Two things that pull apart; nothing where n is large."""
    x, n = float(params["scheduler.x"]), float(params["scheduler.n"])
    better = 0.1 if params["scheduler.way"] == "right" else 0.0
    return None if n > 60 else (x + better, 100 * x * x + abs(n - 10))


def go_on(path: Path, until: int, stop_after: int | None = None) -> list[Trial]:
    """Tune until so many trials have ended, or be stopped after so many more."""
    with opened(path, TASK) as tuning:
        while len(tuning.trials()) < until:
            for params in tuning.propose(until):
                if stop_after == 0:
                    return tuning.trials()
                values = measured(params)
                tuning.add(params, values, "" if values else "too large")
                stop_after = None if stop_after is None else stop_after - 1
        return tuning.trials()


def test_a_stopped_tuning_tries_what_it_would_have_tried(tmp_path: Path) -> None:
    straight = go_on(tmp_path / "a.db", 22)
    for stop in (1, 2, 7, 3):
        go_on(tmp_path / "b.db", 22, stop)
    assert go_on(tmp_path / "b.db", 22) == straight
    go_on(tmp_path / "c.db", 10)  # ends within a batch
    assert go_on(tmp_path / "c.db", 22) == straight, "and so does one that is asked for more"
    assert len(straight) == 22 and len({str(trial.params) for trial in straight}) == 22


def test_the_first_trial_is_the_configuration_as_it_is(tmp_path: Path) -> None:
    assert go_on(tmp_path / "a.db", 1)[0].params == TASK.base
    for n in (100, 8.5):  # beyond the range, and between the whole numbers that it has
        outside = replace(TASK, base={**TASK.base, "scheduler.n": n})
        with opened(tmp_path / f"{n}.db", outside) as tuning:
            (first,) = tuning.propose(1)
            tuning.add(first, (0.5, 9.0), "")
            assert [trial.params for trial in tuning.trials()] == [first]
        assert first != outside.base and all(SPACE[key].holds(each) for key, each in first.items())


def test_another_seed_tries_others(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "a.db", TASK) as one,
        opened(tmp_path / "b.db", replace(TASK, seed=4)) as b,
    ):
        assert one.propose(4)[1:] != b.propose(4)[1:]


def test_a_failed_trial_stays_with_its_reason(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db", TASK) as tuning:
        tuning.add(TASK.base, None, "no room")
        assert tuning.trials() == [Trial(0, TASK.base, None, "no room")]
    assert TASK.front(go_on(tmp_path / "a.db", 6)), "the others go on"


def trials(*values: Sequence[float] | None) -> list[Trial]:
    return [Trial(at, {}, None if v is None else tuple(v)) for at, v in enumerate(values)]


def test_the_front_by_hand() -> None:
    found = TASK.front(
        trials((0.9, 10.0), (0.8, 20.0), (0.95, 30.0), None, (0.5, 5.0), (0.9, 10.0))
    )
    assert [trial.number for trial in found] == [2, 0, 4], "best in the first objective first"
    assert TASK.front(trials(None)) == []
    assert TASK.directions() == ["maximize", "minimize"]


def test_what_is_as_good_in_one_thing_and_better_in_another_beats() -> None:
    assert pareto_front([(1.0, 2.0), (1.0, 3.0), (0.0, 3.0), (2.0, 0.0), (2.0, 0.0)]) == {1, 3, 4}


def test_a_tuning_gets_better_than_chance(tmp_path: Path) -> None:
    one = replace(TASK, objectives=("p99_ttft_ms",))
    with opened(tmp_path / "a.db", one) as tuning:
        while len(tuning.trials()) < 40:
            for params in tuning.propose(40):
                values = measured(params)
                tuning.add(params, values and values[1:], "")
        found = [trial.values[0] for trial in tuning.trials() if trial.values]
    assert min(found) < 3
    assert sorted(found[20:])[len(found[20:]) // 2] < sorted(found[:10])[5]


# -- the database ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (replace(TASK, seed=4), "seed: 3 there, 4 here"),
        (replace(TASK, batch=5), "batch: 4 there, 5 here"),
        (
            replace(TASK, identity={"config": {"run": {"rate_scale": 2.0}}}),
            "config.run.rate_scale: 1.0 there, 2.0 here",
        ),
        (replace(TASK, objectives=("slo_attainment", "p99_tpot_ms")), "objectives: "),
        (
            replace(TASK, space={**SPACE, "scheduler.x": Range(0.0, 2.0)}),
            "space.scheduler.x.high: 1.0 there, 2.0 here",
        ),
        (
            replace(TASK, space={**SPACE, "scheduler.n": Range(1.0, 64.0, log=True)}),
            "space.scheduler.n.high: 64 there, 64.0 here",
        ),
    ],
)
def test_trials_of_another_task_are_refused(tmp_path: Path, other: Task, difference: str) -> None:
    go_on(tmp_path / "a.db", 2)
    with pytest.raises(ConfigError) as failed, opened(tmp_path / "a.db", other):
        pass
    assert difference in str(failed.value) and "holds trials of another task" in str(failed.value)
    assert "\n" not in str(failed.value)


def test_trials_that_nobody_says_the_task_of_are_refused(tmp_path: Path) -> None:
    """Such as those of a program of one's own that has a study of this name."""
    import optuna

    path = tmp_path / "a.db"
    go_on(path, 1)
    study = optuna.load_study(study_name=STUDY, storage=f"sqlite:///{path}")
    study.set_user_attr("identity", None)
    with pytest.raises(ConfigError, match="holds trials that are not of tune"), opened(path, TASK):
        pass


def test_a_database_is_used_once_at_a_time(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "a.db", TASK),
        pytest.raises(ConfigError, match="another tune is using it"),
        opened(tmp_path / "a.db", TASK),
    ):
        pass


def test_optuna_says_nothing_of_its_own(tmp_path: Path) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.INFO)
    with opened(tmp_path / "a.db", TASK):
        assert optuna.logging.get_verbosity() == optuna.logging.ERROR


def test_what_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("hello, this is certainly not a database of trials\n" * 20)
    expected = "a.db: expected an SQLite database of trials: file is not a database$"
    with (
        pytest.raises(ConfigError, match=expected),
        opened(tmp_path / "a.db", TASK),
    ):
        pass
    with pytest.raises(ConfigError, match="cannot write"), opened(tmp_path, TASK):
        pass


def test_a_disk_that_is_full_is_told(tmp_path: Path) -> None:
    """In a process that may write no file of more than 4 KiB."""
    program = (
        "import resource, sys; sys.path[:0] = ['tests', 'tests/lab/studies', '.']\n"
        "from pathlib import Path\n"
        "from test_tuning import TASK, opened\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        f"with opened(Path({str(tmp_path / 'a.db')!r}), TASK): pass\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    last = done.stderr.splitlines()[-1]
    place = f"cannot write {tmp_path / 'a.db'}: "
    assert last.startswith(f"superinfer.errors.SuperInferError: {place}"), done.stderr


def test_a_database_of_something_else_is_told(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.db") as other:
        other.execute("create table studies (name text)")
    other.close()
    with (
        pytest.raises(ConfigError, match="expected an SQLite database of trials"),
        opened(tmp_path / "a.db", TASK),
    ):
        pass


@pytest.mark.parametrize(
    ("table", "missing"),
    [
        ("studies", "Record does not exist."),
        ("study_directions", "its objectives are missing"),
        ("trial_params", "settings or values of trial 0 are missing"),
        ("trial_values", "settings or values of trial 0 are missing"),
    ],
)
def test_a_database_that_lacks_a_table_is_told(tmp_path: Path, table: str, missing: str) -> None:
    go_on(tmp_path / "a.db", 2)
    with sqlite3.connect(tmp_path / "a.db") as broken:
        broken.execute(f"drop table {table}")
    broken.close()
    expected = f"a.db: expected an SQLite database of trials: {missing}$"
    with pytest.raises(ConfigError, match=expected), opened(tmp_path / "a.db", TASK):
        pass


def test_without_optuna_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'superinfer\[tune\]'"):
        require_optuna()
