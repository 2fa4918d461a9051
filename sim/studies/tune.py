"""`superinfer-sim tune`: settings of a scheduler that no others beat, by Optuna.

A trial is a run of a study (one per seed), which stays in the folder of the tuning under a hash of
all that it depends on; once it has ended it goes to an SQLite database. So a tuning that was
stopped or killed goes on where it was, runs nothing twice, and tries what it would have tried.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.commands import check_folder, default_run_folder, read_workload
from sim.notices.before import (
    as_point,
    say_of_parts,
    say_of_points,
    warn_of_absent_classes,
    warn_of_notes,
)
from sim.run import build_engine
from sim.studies.compare import warn_of_worst
from sim.studies.folder import check_kept, kept, write_outcome
from sim.studies.points import POINTS, study_of_points
from sim.studies.seeds import check_seeds
from sim.studies.tune_page import front_table, trial_toml, tune_json
from sim.studies.tune_search import ConfigAt, Search
from sim.summaries import few_summary
from sim.workload import kept_stdin
from superinfer.errors import ConfigError
from superinfer.lab.cli.progress import showing_progress
from superinfer.lab.cli.terminal import say
from superinfer.lab.config import Config
from superinfer.lab.studies.axes import Value
from superinfer.lab.studies.content import Keys, content_hash, named_files
from superinfer.lab.studies.differences import check_metric
from superinfer.lab.studies.engines.base import StudyEngine
from superinfer.lab.studies.space import Space, check_space, derived_space, read_space
from superinfer.lab.studies.study import Study
from superinfer.lab.studies.tuning import Task, Trial, opened, require_optuna
from superinfer.outputs import check_writable, replacing
from traces.printing import print_out, print_table
from traces.workload import Workload

TUNE, BEST, FRONT = "tune.json", "best.toml", "front"
STORAGE = "study.db"
"""The trials, beside the folder of their runs."""
ALIASES = {
    "attainment": "slo_attainment",
    "goodput": "request_goodput",
    "throughput": "output_throughput",
}
USUAL = ("slo_attainment", "output_throughput", "p99_ttft_ms")


@dataclass(slots=True, frozen=True)
class TuneWish:
    """What is asked for."""

    trials: int
    engine: StudyEngine
    objectives: tuple[str, ...] = ()
    """Keys of `summary.json` or `ALIASES`; empty: `USUAL`."""
    params: tuple[str, ...] = ()
    space: Path | None = None
    seeds: int = 1
    search_seed: int = 0
    batch: int = 4
    storage: Path | None = None
    out: Path | None = None
    as_json: bool = False
    plots: bool = True


def tune_command(config_at: ConfigAt, wish: TuneWish) -> int:
    """Try settings, write and show the front of the best; returns the exit code."""
    require_optuna()
    config = config_at({})
    space = _check(config, config_at, wish)
    stdin = kept_stdin(config)
    workload = read_workload(config)
    say_of_points(as_point(config), workload)
    warn_of_absent_classes(space, workload)
    objectives = _objectives(config, wish, workload)
    root = _root(config, wish, workload)
    study = study_of_points(root, stdin, config.run, wish.seeds, wish.engine)
    base = {key: _value_of(config, key) for key in space}
    identity = _identity(config, study, wish)
    task = Task(objectives, space, base, wish.search_seed, wish.batch, identity)
    search = Search(config_at, wish.trials, wish.seeds, task, study)
    with kept(root):
        study.root.mkdir(parents=True, exist_ok=True)  # by which it is one to go on with
        with opened(wish.storage or root / STORAGE, task) as tuning:
            with wish.engine.session(), showing_progress() as report:
                search.run(tuning, report)
            trials = tuning.trials()
    _conclude(search, trials, root, wish)
    return 0 if any(trial.values is not None for trial in trials) else 1


# -- checks ---------------------------------------------------------------------------------------


def _check(config: Config, config_at: ConfigAt, wish: TuneWish) -> Space:
    """Meet every fault that needs no trace before the trace is read; the space."""
    if wish.out is not None:
        check_kept(wish.out, POINTS)
    warn_of_notes(config)
    build_engine(config)
    say_of_parts(as_point(config))
    check_seeds(config.run, wish.seeds)
    if wish.space is not None:
        space = read_space(wish.space, wish.params)
    else:
        space = derived_space(config, wish.params, build_engine)

    def built_at(settings: Mapping[str, Value]) -> None:
        build_engine(config_at(settings))

    check_space(space, built_at)
    return space


def _objectives(config: Config, wish: TuneWish, workload: Workload) -> tuple[str, ...]:
    """Keys of the summary; ConfigError for one that summaries of this workload do not have."""
    summary = few_summary(config, workload)
    asked = tuple(ALIASES.get(name, name) for name in wish.objectives)
    if len(set(asked)) < len(asked):
        raise ConfigError(f"--objectives: expected different ones, got {', '.join(asked)}")
    judged = summary["slo_attainment"] is not None
    for key in asked:
        try:
            check_metric(key, summary)
        except ConfigError as error:
            names = ", ".join(ALIASES)
            raise ConfigError(f"--objectives: {error} (or one of {names})") from None
        if not judged and key == "slo_attainment":
            raise ConfigError(f"--objectives {key}: no request has a target")
    return asked or tuple(key for key in USUAL if judged or key != "slo_attainment")


def _root(config: Config, wish: TuneWish, workload: Workload) -> Path:
    """Where the runs go: with a database of one's own beside it, so that they are found again."""
    if wish.out is not None:
        return wish.out
    if wish.storage is None:
        root = default_run_folder(config, workload, "tune")
        check_folder(root)
        return root
    root = wish.storage.with_name(f"{wish.storage.stem}-runs")
    check_writable(root)
    return root


def _identity(config: Config, study: Study, wish: TuneWish) -> dict[str, Any]:
    """What trials depend on: settings, seeds, the content of files, and the program."""
    settings = config.resolved()
    files = {str(path): content_hash(path) for path in named_files(settings)}
    files |= {path.name: content_hash(path) for path in study.inputs}
    return {
        "config": settings,
        "seeds": wish.seeds,
        "files": files,
        "program": Keys(study.runner).content(config),
    }


def _value_of(config: Config, key: str) -> Any:
    """A setting of the configuration; None where it has none."""
    found: Any = config.resolved()
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


# -- the outcome ----------------------------------------------------------------------------------


def _conclude(search: Search, trials: Sequence[Trial], root: Path, wish: TuneWish) -> None:
    """Write and show what was found; it is shown even if it cannot be written."""
    task, base = search.task, search.values(search.base)
    front = task.front(trials)
    text = json.dumps(tune_json(task, trials, front, base, search.config_at({})), indent=2)
    try:
        write_outcome(root / TUNE, text)
        _write_configs(search, front, root)
        if wish.plots:
            from superinfer.lab.pictures.pareto import Tried, write_pareto_plot

            write_pareto_plot(Tried(task, trials, front, base), root)
        say(f"tuning in {root}")
    finally:
        if wish.as_json:
            print_out(text)
        else:
            print_table(front_table(task, trials, front, base))
    warn_of_worst("as it is", search.base)


def _write_configs(search: Search, front: Sequence[Trial], root: Path) -> None:
    """Each of the front as a TOML configuration, and the first of them once more as the best."""
    for old in (root / FRONT).glob("trial-*.toml"):
        old.unlink()
    texts = {
        root / FRONT / f"trial-{trial.number}.toml": trial_toml(
            search.task, trial, search.config_at(trial.params)
        )
        for trial in front
    }
    if texts:
        texts[root / BEST] = next(iter(texts.values()))
    for path, text in texts.items():
        with replacing(path) as staged:
            staged.write_text(text, encoding="utf-8", newline="\n")
