"""What `superinfer-sim tune` says: a table, JSON and configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from superinfer.lab.config import Config
from superinfer.lab.metric_names import is_share
from superinfer.lab.numbers import digits
from superinfer.lab.results import settings_toml
from superinfer.lab.studies.axes import Value, shown
from superinfer.lab.studies.tuning import Task, Trial
from superinfer.lab.versions import versions

if TYPE_CHECKING:
    from rich.table import Table

_FEW = 4
"""Settings that a table has room for."""
_MOST_ROWS = 20
"""Of the front, so many are shown, the best in the first objective first."""


def tune_json(
    task: Task,
    trials: Sequence[Trial],
    front: Sequence[Trial],
    base: Sequence[float],
    config: Config,
) -> dict[str, Any]:
    """What `--json` prints and `tune.json` holds."""
    return {
        "version": 1,
        "simulated": True,
        "objectives": dict(zip(task.objectives, task.directions(), strict=True)),
        "space": {key: span.as_json() for key, span in task.space.items()},
        "search_seed": task.seed,
        "batch": task.batch,
        "as_it_is": {"params": dict(task.base), "values": _named(task, base)},
        "trials": [
            {
                "number": trial.number,
                "params": dict(trial.params),
                "values": None if trial.values is None else _named(task, trial.values),
                "failure": trial.reason or None,
            }
            for trial in trials
        ],
        "front": [trial.number for trial in front],
        "run": config.resolved(),
        "versions": versions("superinfer", "simpy", "numpy", "optuna"),
    }


def front_table(
    task: Task, trials: Sequence[Trial], front: Sequence[Trial], base: Sequence[float]
) -> Table:
    """A row for the configuration as it is and for each of the front."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(_title(trials, front)))
    table.title_justify = "left"
    table.add_column("Trial", no_wrap=True)
    for objective, way in zip(task.objectives, task.directions(), strict=True):
        table.add_column(Text(f"{objective} ({'more' if way == 'maximize' else 'less'})"))
        table.columns[-1].justify = "right"
    short = len(task.space) <= _FEW
    table.add_column("Changed settings" if short else "Settings")
    table.add_row("as it is", *_values(task, base), "")
    for trial in front[:_MOST_ROWS]:
        assert trial.values is not None
        found = _changed(task, trial.params) if short else f"front/trial-{trial.number}.toml"
        table.add_row(str(trial.number), *_values(task, trial.values), Text(found))
    table.caption, table.caption_justify = Text(_caption(trials, front)), "left"
    return table


def trial_toml(task: Task, trial: Trial, config: Config) -> str:
    """A trial as a configuration that `run --config` takes, its values as a comment."""
    assert trial.values is not None
    found = ", ".join(
        f"{key} {value:.6g}" for key, value in zip(task.objectives, trial.values, strict=True)
    )
    head = f"# Trial {trial.number} of superinfer-sim tune, simulated: {found}.\n"
    changed = _changed(task, trial.params) or "nothing"
    return f"{head}# Changed: {changed}.\n\n{settings_toml(config.resolved())}"


# -- inside ---------------------------------------------------------------------------------------


def _named(task: Task, values: Sequence[float]) -> dict[str, float]:
    return dict(zip(task.objectives, values, strict=True))


def _changed(task: Task, params: Mapping[str, Value]) -> str:
    """What differs from the configuration as it is; the scheduler's settings by their own names."""
    return ", ".join(
        f"{key.removeprefix('scheduler.')}={shown(value)}"
        for key, value in params.items()
        if value != task.base.get(key)
    )


def _values(task: Task, values: Sequence[float]) -> list[str]:
    return [
        f"{digits(100 * value)} %" if is_share(key) else digits(value, 5)
        for key, value in zip(task.objectives, values, strict=True)
    ]


def _title(trials: Sequence[Trial], front: Sequence[Trial]) -> str:
    return f"Front: {len(front)} of {len(trials)} trials that no other one beats"


def _caption(trials: Sequence[Trial], front: Sequence[Trial]) -> str:
    notes = ["Simulated."]
    if len(front) > _MOST_ROWS:
        notes.append(f"The first {_MOST_ROWS} of the front are shown.")
    failed = [trial for trial in trials if trial.values is None]
    if failed:
        count = "1 trial failed" if len(failed) == 1 else f"{len(failed)} trials failed, the first"
        notes.append(f"{count}: {failed[0].reason}")
    return " ".join(notes)
