"""Which settings to try next: Optuna, with its trials in SQLite.

The trials of a batch are drawn from what the batches before it gave, each with a random state of
its own number. So what is proposed depends on the seed and on the trials that have ended, neither
on the number of workers nor on how often a tuning was stopped. A trial enters the database once,
when it has ended.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from superinfer.errors import ConfigError, SuperInferError
from superinfer.lab.metric_names import higher_is_better
from superinfer.lab.studies.axes import Value
from superinfer.lab.studies.pareto import pareto_front
from superinfer.lab.studies.space import Choices, Space

STUDY = "superinfer-tune"
"""Name of the study in its database."""
STARTUP = 10
"""Trials that are drawn at random before the model has a say (Optuna's default)."""
_IDENTITY, _REASON = "identity", "reason"
_NO_WRITING = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL)
"""What SQLite says of a place where it cannot write."""

Direction = Literal["maximize", "minimize"]


@dataclass(slots=True, frozen=True)
class Trial:
    """One set of settings that was tried."""

    number: int
    params: Mapping[str, Value]
    """By key, such as `scheduler.max_num_seqs`."""
    values: tuple[float, ...] | None
    """Of the objectives; None for a trial that failed."""
    reason: str = ""
    """Why it failed."""


@dataclass(slots=True, frozen=True)
class Task:
    """What is tuned for what, and how."""

    objectives: tuple[str, ...]
    """Keys of `summary.json`."""
    space: Space
    base: Mapping[str, Value]
    """Values of the configuration as it is: the first trial, where they lie in the space."""
    seed: int = 0
    batch: int = 4
    """Trials that are drawn before any of them has ended."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """What the trials of a database depend on beside their settings, as plain values."""

    def directions(self) -> list[Direction]:
        """`maximize` or `minimize` for each objective."""
        return ["maximize" if higher_is_better(key) else "minimize" for key in self.objectives]

    def front(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials that no other one beats, the best in the first objective first."""
        signs = [1.0 if way == "maximize" else -1.0 for way in self.directions()]
        known = [trial for trial in trials if trial.values is not None]
        scores = [
            [sign * value for sign, value in zip(signs, trial.values or (), strict=True)]
            for trial in known
        ]
        best = sorted(pareto_front(scores), key=lambda at: [-score for score in scores[at]])
        # Equal results of different settings are one point of the front: the first found.
        different = {tuple(scores[at]): known[at] for at in reversed(best)}
        return list(reversed(different.values()))


class Tuning:
    """The trials of a task in their database; made by `opened`."""

    def __init__(self, task: Task, study: Any) -> None:
        self.task = task
        self._study = study
        self._distributions = _distributions(task.space)

    def trials(self) -> list[Trial]:
        """All that have ended, in the order of their numbers."""
        return [_trial(number, each) for number, each in enumerate(self._ended())]

    def propose(self, until: int) -> list[dict[str, Value]]:
        """The settings of the rest of the batch that the next trial belongs to, up to the trial
        number `until`, exclusive.
        """
        ended = self._ended()
        begun = len(ended) // self.task.batch * self.task.batch
        stop = min(begun + self.task.batch, until)
        return [self._drawn(ended[:begun], number) for number in range(len(ended), stop)]

    def add(self, params: Mapping[str, Value], values: Sequence[float] | None, reason: str) -> None:
        """Store a trial that has ended, whole or not at all."""
        import optuna

        state = optuna.trial.TrialState
        trial = optuna.trial.create_trial(
            params=dict(params),
            distributions=self._distributions,
            values=None if values is None else [float(value) for value in values],
            state=state.FAIL if values is None else state.COMPLETE,
            user_attrs={_REASON: reason} if reason else {},
        )
        self._study.add_trial(trial)

    # -- inside ---------------------------------------------------------------------------------

    def _ended(self) -> list[Any]:
        from optuna.trial import TrialState

        found: list[Any] = self._study.get_trials(states=(TrialState.COMPLETE, TrialState.FAIL))
        return found

    def _drawn(self, known: Sequence[Any], number: int) -> dict[str, Value]:
        import optuna

        task = self.task
        if number == 0 and all(span.holds(task.base.get(key)) for key, span in task.space.items()):
            return {key: task.base[key] for key in task.space}
        sampler = optuna.samplers.TPESampler(
            seed=_mixed(task.seed, number), n_startup_trials=STARTUP
        )
        study = optuna.create_study(directions=task.directions(), sampler=sampler)
        study.add_trials(known)
        drawn = study.ask(self._distributions).params
        return {key: span.tidy(drawn[key]) for key, span in task.space.items()}


def require_optuna() -> None:
    """ConfigError that says what to install where Optuna is not."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("tune: needs Optuna; install it with: pip install 'superinfer[tune]'")


@contextmanager
def opened(path: Path, task: Task) -> Iterator[Tuning]:
    """The trials in the SQLite file, which is made where it is absent, and ours until the end.

    Raises ConfigError for a file that is no such database, is in use, or belongs to another task,
    SuperInferError where it cannot be written, as on a full disk.
    """
    import optuna
    from sqlalchemy.exc import DatabaseError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _alone(path):
        try:
            storage = optuna.storages.RDBStorage(f"sqlite:///{path.absolute()}")
            try:
                yield Tuning(task, _stored_study(path, storage, task))
            finally:
                storage.engine.dispose()
        except (DatabaseError, optuna.exceptions.StorageInternalError) as error:
            raise _database_fault(path, error) from None


# -- inside ---------------------------------------------------------------------------------------


def _database_fault(path: Path, error: Exception) -> SuperInferError:
    """What SQLite refused: to write, as on a full disk, or to read what is there."""
    reason = str(error.__cause__ or error).splitlines()[0]
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, sqlite3.Error):
        cause = cause.__cause__
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # the upper bits say more of it
    if code in _NO_WRITING:
        return SuperInferError(f"cannot write {path}: {cause}")
    return _no_database(path, reason)


def _no_database(path: Path, reason: str) -> ConfigError:
    return ConfigError(f"{path}: expected an SQLite database of trials: {reason}")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep a second tuning from the same file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_RDWR)
    except OSError as error:
        raise ConfigError(f"--storage {path}: cannot write: {error.strerror}") from None
    try:
        _lock(path, handle)
        yield
    finally:
        os.close(handle)


def _lock(path: Path, handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"--storage {path}: another tune is using it") from None


def _stored_study(path: Path, storage: Any, task: Task) -> Any:
    """The study in the database, which is made where it is absent; ConfigError for one of another
    task, or with a part missing.
    """
    import optuna

    try:
        study = optuna.create_study(
            storage=storage, study_name=STUDY, directions=task.directions(), load_if_exists=True
        )
        _check_identity(path, study, task)
        _check_whole(study, task)
    except (KeyError, ValueError) as error:  # what Optuna raises of a row that is missing
        raise _no_database(path, error.args[0] if error.args else "") from None
    return study


def _check_whole(study: Any, task: Task) -> None:
    """ValueError where a table was emptied that Optuna itself does not miss."""
    if len(study.directions) != len(task.objectives):
        raise ValueError("its objectives are missing")
    for trial in study.get_trials():
        values = len(task.objectives) if trial.state.name == "COMPLETE" else 0
        if trial.params.keys() != task.space.keys() or len(trial.values or ()) != values:
            raise ValueError(f"settings or values of trial {trial.number} are missing")


def _check_identity(path: Path, study: Any, task: Task) -> None:
    """Store what the trials depend on with the first of them; refuse another one."""
    mine = json.loads(json.dumps({**task.identity, **_own_identity(task)}))
    stored = study.user_attrs.get(_IDENTITY)
    if stored is None:
        if study.get_trials():
            raise ConfigError(f"--storage {path}: holds trials that are not of tune")
        study.set_user_attr(_IDENTITY, mine)
        return
    difference = next(_differences(stored, mine, ""), None)
    if difference is not None:
        raise ConfigError(
            f"--storage {path}: holds trials of another task ({difference}): "
            "give another --out or --storage"
        )


def _own_identity(task: Task) -> dict[str, Any]:
    return {
        "objectives": list(task.objectives),
        "space": {key: span.as_json() for key, span in task.space.items()},
        "seed": task.seed,
        "batch": task.batch,
    }


def _differences(stored: Any, mine: Any, place: str) -> Iterator[str]:
    """Where two trees differ, in words."""
    if isinstance(stored, dict) and isinstance(mine, dict):
        for key in sorted(stored.keys() | mine.keys()):
            inner = f"{place}.{key}" if place else key
            yield from _differences(stored.get(key), mine.get(key), inner)
    elif stored != mine or type(stored) is not type(mine):  # 1 is a whole number, 1.0 is none
        yield f"{place}: {_short(stored)} there, {_short(mine)} here"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _distributions(space: Space) -> dict[str, Any]:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    found: dict[str, Any] = {}
    for key, span in space.items():
        if isinstance(span, Choices):
            found[key] = CategoricalDistribution(span.values)
        elif span.whole:
            found[key] = IntDistribution(int(span.low), int(span.high), log=span.log)
        else:
            found[key] = FloatDistribution(span.low, span.high, log=span.log)
    return found


def _trial(number: int, stored: Any) -> Trial:
    values = tuple(stored.values) if stored.values is not None else None
    return Trial(number, stored.params, values, stored.user_attrs.get(_REASON, ""))


def _mixed(seed: int, number: int) -> int:
    """A random state for each trial of each seed."""
    import numpy as np

    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
