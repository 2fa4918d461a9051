"""`superinfer-sim sensitivity`: does a conclusion survive errors of the cost model?

Two schedulers run on one workload, then again with one part of the model slower and faster: each
kernel, the host, the links; estimates of answer lengths longer and shorter; arrivals burstier and
calmer. Both meet the same error each time. The conclusion is which of the two is better in one
metric; it survives where the same one still is. A part that changes nothing in either run does not
apply: it says nothing about the conclusion.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sim.commands import default_run_folder, read_workload
from sim.notices.before import as_points, say_of_points
from sim.run import build_engine
from sim.studies.arms import Arms, in_arm
from sim.studies.compare import STDIN, Simulate, check_arms, warn_of_worst
from sim.studies.folder import STUDY, claimed, fed_runner, finish, resumable, write_outcome
from sim.studies.seeds import seeds_from
from sim.studies.sensitivity_page import sensitivity_table
from sim.studies.variations import NOT_KERNELS, Vary, variations
from sim.studies.whole_runs import whole_runs
from sim.summaries import few_summary
from sim.workload import kept_stdin
from superinfer.errors import ConfigError
from superinfer.lab.cli.progress import showing_progress
from superinfer.lab.cli.terminal import say
from superinfer.lab.config import Config
from superinfer.lab.metric_names import higher_is_better
from superinfer.lab.pictures.tornado import write_tornado
from superinfer.lab.results import Run
from superinfer.lab.studies.differences import Difference, check_metric, check_metrics, differences
from superinfer.lab.studies.study import WALL_CLOCK, Study, run_study
from superinfer.lab.versions import versions
from superinfer.settings import did_you_mean
from traces.printing import print_out, print_table

RESULT = "sensitivity.json"
SIGNS = {"faster": "-", "slower": "+"}
"""Keys of `sensitivity.json` for the two errors."""

Key = tuple[str, str, str]
"""Scheduler, part and sign of an error; the last two are empty for the run without errors."""
Runs = Mapping[Key, Sequence[Run]]


@dataclass(slots=True, frozen=True)
class Question:
    """What is asked for."""

    metric: str = ""
    """Key of `summary.json`; empty: the share of met targets, or p99 TTFT where there are none."""
    by: float = 0.1
    """Size of the errors, as a share."""
    parts: tuple[str, ...] = ()
    """Those to vary; empty: all."""
    seeds: int = 1
    workers: int = 0
    out: Path | None = None
    as_json: bool = False
    plots: bool = True


def sensitivity_command(arms: Arms, question: Question) -> int:
    """Run the two schedulers under every error; returns the exit code."""
    first = _check(arms, question)
    stdin = kept_stdin(first)
    workload = read_workload(first)
    say_of_points(as_points(arms), workload)
    if question.metric:
        try:
            check_metric(question.metric, few_summary(first, workload))
        except ConfigError as error:
            raise ConfigError(f"--metric: {error}") from None
    seeds = seeds_from(first.run, question.seeds)
    folder = question.out or default_run_folder(first, workload, "sensitivity")
    with claimed(folder) as root:
        varied = _all_arms(arms, question, root / STUDY)
        names = {key: _shown(key, number) for number, key in enumerate(varied)}
        runner, inputs = fed_runner(partial(Simulate, False), root / STUDY / STDIN, stdin)
        shown = {names[key]: config for key, config in varied.items()}
        study = Study(shown, root / STUDY, runner, seeds, inputs, question.workers)
        with resumable(study, root), showing_progress() as report:
            result = run_study(study, report)
        for failure in result.failures:
            say(f"error: {failure}")
        if not result.failures:
            runs = {key: whole_runs(result, name) for key, name in names.items()}
            _conclude(list(arms), question, runs, root)
            _warn(arms, runs)
            finish(root)
    return result.exit_code


# -- errors ---------------------------------------------------------------------------------------


def _chosen(arms: Arms, question: Question) -> dict[str, dict[str, Vary]]:
    """By part, the variation of every arm that has it: profiles may have different kernels."""
    found: dict[str, dict[str, Vary]] = {}
    for name, config in arms.items():
        with in_arm(name):
            known = variations(build_engine(config)[1])
        for part, vary in known.items():
            found.setdefault(part, {})[name] = vary
    names = [*(part for part in found if part not in NOT_KERNELS), *NOT_KERNELS]
    for part in question.parts:
        if part not in names:
            raise ConfigError(
                f"--part: expected one of {', '.join(names)}, got {part!r}"
                f"{did_you_mean(part, names)}"
            )
    wanted = question.parts or tuple(names)
    return {part: found[part] for part in names if part in wanted}


def _all_arms(arms: Arms, question: Question, folder: Path) -> dict[Key, Config]:
    """The two as they are, then both under each error; one without the part stays as it is."""
    profiles = folder / "profiles"
    profiles.mkdir(parents=True, exist_ok=True)
    found: dict[Key, Config] = {(name, "", ""): config for name, config in arms.items()}
    for part, by_arm in _chosen(arms, question).items():
        for sign, factor in _factors(question):
            for number, (name, config) in enumerate(arms.items()):
                path = profiles / f"{part}{sign}{number}.json"
                varied = by_arm[name](config, factor, path) if name in by_arm else config
                found[name, part, sign] = varied
    return found


def _factors(question: Question) -> tuple[tuple[str, float], tuple[str, float]]:
    return ("-", 1.0 - question.by), ("+", 1.0 + question.by)


def _shown(key: Key, number: int) -> str:
    """What progress and failures call a run; unlike every other, whatever arms are called."""
    name, part, sign = key
    return f"{name} | {part} {sign} (run {number})" if part else name


# -- checks ---------------------------------------------------------------------------------------


def _check(arms: Arms, question: Question) -> Config:
    """Meet every fault before the trace is read; the first configuration."""
    if len(arms) != 2:
        raise ConfigError(f"sensitivity: expected two schedulers or arms, got {', '.join(arms)}")
    check_arms(arms, question.out, question.seeds)
    _chosen(arms, question)
    return next(iter(arms.values()))


def _warn(arms: Arms, runs: Runs) -> None:
    """For every arm as it is, what it left or assumes: the worst of its runs."""
    for name in arms:
        warn_of_worst(f"arm {name}", runs[name, "", ""])


# -- the outcome ----------------------------------------------------------------------------------


def _conclude(names: Sequence[str], question: Question, runs: Runs, root: Path) -> None:
    """Write and show who wins under which error."""
    metric = _metric(question, [runs[name, "", ""] for name in names])
    outcome = outcome_of(names, metric, question, runs)
    write_outcome(root / RESULT, json.dumps(outcome, indent=2))
    if question.as_json:
        print_out(json.dumps(outcome, indent=2))
    else:
        print_table(sensitivity_table(outcome))
    if question.plots:
        write_tornado(outcome, root)
    say(f"results in {root}")


def _metric(question: Question, runs: Sequence[Sequence[Run]]) -> str:
    metric = question.metric
    if not metric:
        judged = all(run.summary["slo_attainment"] is not None for each in runs for run in each)
        metric = "slo_attainment" if judged else "p99_ttft_ms"
    check_metrics({str(number): each for number, each in enumerate(runs)}, [metric])
    return metric


def outcome_of(names: Sequence[str], metric: str, question: Question, runs: Runs) -> dict[str, Any]:
    """What `--json` prints and `sensitivity.json` holds."""
    base = _compared(metric, names, runs)
    seen = dict.fromkeys(part for _, part, _ in runs if part)
    parts = [_part(part, metric, names, runs, base) for part in seen]
    parts.sort(key=lambda each: -(each["swing"] or 0.0))
    return {
        "version": 1,
        "metric": metric,
        "higher_is_better": higher_is_better(metric),
        "by": question.by,
        "seeds": question.seeds,
        "schedulers": list(names),
        "base": dict(_entry(base)),
        "parts": parts,
        "survives": all(each["survives"] for each in parts if each["applies"]),
        "versions": versions("superinfer", "simpy", "numpy"),
    }


def _part(
    part: str,
    metric: str,
    names: Sequence[str],
    runs: Runs,
    base: Difference,
) -> dict[str, Any]:
    """One entry of `parts`: both ends, whether the winner without errors wins at both (None where
    the part changes nothing), and how far the difference moves.
    """
    ends = {
        key: dict(_entry(_compared(metric, names, runs, part, sign))) for key, sign in SIGNS.items()
    }
    changes = [base.difference, *(end["difference"] for end in ends.values())]
    applies = any(
        _told(runs[name, part, sign]) != _told(runs[name, "", ""])
        for name in names
        for sign in SIGNS.values()
    )
    survives = all(end["winner"] == _winner(base) for end in ends.values())
    return {
        "part": part,
        **ends,
        "applies": applies,
        "survives": survives if applies else None,
        "swing": None if None in changes else max(changes) - min(changes),
    }


def _told(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What runs came to, without the clock, their settings and the path of their profile."""
    left_out = (*WALL_CLOCK, "trust", "run")
    return [
        {name: value for name, value in run.summary.items() if name not in left_out} for run in runs
    ]


def _compared(
    metric: str, names: Sequence[str], runs: Runs, part: str = "", sign: str = ""
) -> Difference:
    pair = {name: runs[name, part, sign] for name in names}
    found = differences(pair, [metric])
    if not found:
        raise ConfigError(f"--metric {metric}: expected a number in every run, found none")
    return found[0]


def _entry(found: Difference) -> Iterator[tuple[str, Any]]:
    known = found.interval
    yield "values", [found.reference_value, found.value]
    yield "difference", found.difference
    yield "interval", None if known is None else [known.low, known.high]
    yield "winner", _winner(found)


def _winner(found: Difference) -> str | None:
    """Who is better; None where they are equal or a value is missing."""
    change = found.difference
    if not change:
        return None
    better = (change > 0) == higher_is_better(found.metric)
    return found.arm if better else found.reference
