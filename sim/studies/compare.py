"""`superinfer-sim compare`: several configurations on one workload, as a study."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sim.commands import (
    RunOptions,
    check_folder,
    default_run_folder,
    read_workload,
)
from sim.notices.after import say_of_cut, say_of_letters, say_without_targets
from sim.notices.before import as_points, say_of_parts, say_of_points, warn_of_notes
from sim.run import build_engine
from sim.studies.arms import Arms, in_arm, plain_name
from sim.studies.folder import STUDY, claimed, fed_runner, finish, resumable, write_outcome
from sim.studies.seeds import check_seeds, seeds_from
from sim.studies.unequal_arms import kv_tokens_of, unequal_memory, unequal_release
from sim.studies.whole_runs import whole_runs
from sim.summaries import simulated
from sim.workload import kept_stdin, load_in_worker
from superinfer.lab.cli.progress import showing_progress
from superinfer.lab.cli.terminal import say
from superinfer.lab.config import Config
from superinfer.lab.metric_names import Summary
from superinfer.lab.notices.idle_window import window_warning
from superinfer.lab.notices.overload import ALIKE, LATE, overload_warning
from superinfer.lab.notices.trust import (
    assumed_warning,
    nominal_warning,
    range_warning,
    warnings_of,
)
from superinfer.lab.numbers import mean_summary
from superinfer.lab.precision import shown_precision
from superinfer.lab.report import write_pages
from superinfer.lab.results import SUMMARY, Run, summary_json, write_run
from superinfer.lab.studies.differences import METRICS, Difference, differences
from superinfer.lab.studies.study import WALL_CLOCK, Study, StudyResult, run_study
from traces.printing import print_out, print_table

COMPARISON, PICTURE = "comparison.json", "compare.png"

STDIN = ".stdin"
"""In the folder of a study that goes on only until all runs are there."""


@dataclass(slots=True, frozen=True)
class Simulate:
    """The runner of a comparison: one configuration into one result folder."""

    plots: bool = False
    stdin: Path | None = None
    """What standard input gave, where the trace is `-`: a worker has none."""

    def __call__(self, config: Config, folder: Path) -> Path:
        metrics, summary = simulated(config, load_in_worker(config, self.stdin))
        written = write_run(folder, metrics, summary, config.resolved())
        if self.plots:
            write_pages(written)
        return written


def simulate_into(config: Config, folder: Path) -> Path:
    """Simulate into a new result folder: the usual runner of a `Study`. Gives the folder, which is
    `FOLDER-2` or a later one where there is a result already.
    """
    return Simulate()(config, folder)


def check_arms(arms: Arms, out: Path | None, seeds: int) -> None:
    """Meet every fault that needs no trace before the trace is read."""
    if out is not None:
        check_folder(out)
    kv_tokens = {}
    for name, config in arms.items():
        warn_of_notes(config)
        with in_arm(name):
            kv_tokens[name] = kv_tokens_of(build_engine(config)[0])
    say_of_parts(as_points(arms))
    for line in filter(None, (unequal_memory(arms, kv_tokens), unequal_release(arms))):
        say(line)
    check_seeds(next(iter(arms.values())).run, seeds)


def compare_command(arms: Arms, options: RunOptions, seeds: int = 1, workers: int = 0) -> int:
    """Run several configurations on one workload; returns the exit code.

    With `seeds` above 1 every arm runs with `run.seed`, the one after it, and so on. Every arm has
    a result folder of its own. A comparison that was stopped, or in which an arm failed, leaves
    what it has in the folder, and goes on from there when it is given the same one. `workers` is
    the number of processes (0: one per core).
    """
    first = next(iter(arms.values()))
    check_arms(arms, options.out, seeds)
    stdin = kept_stdin(first)
    workload = read_workload(first)
    say_of_points(as_points(arms), workload)
    chosen = seeds_from(first.run, seeds)
    with claimed(options.out or default_run_folder(first, workload, "compare")) as root:
        study = _study(arms, chosen, root, workers, options, stdin)
        with resumable(study, root), showing_progress() as report:
            result = run_study(study, report)
        _place(result, study.seeds, root)
        _conclude(study, result, root, options)
        _warn(result)
        runs = [run for name in result.folders for run in whole_runs(result, name)]
        if runs:
            say_without_targets(*(run.summary for run in runs))
            say_of_cut(*(run.summary for run in runs))
        for failure in result.failures:
            say(f"error: {failure}")
        if not result.failures:
            finish(root)
    return result.exit_code


def comparison(
    runs: Mapping[str, Sequence[Run]], found: Sequence[Difference], result: StudyResult, root: Path
) -> dict[str, Any]:
    """What `--json` prints and `comparison.json` holds, without what two equal runs differ in."""
    return {
        "version": 1,
        "reference": next(iter(runs)),
        "arms": {name: [_entry(run, root) for run in each] for name, each in runs.items()},
        "differences": [difference.as_json() for difference in found],
        "failed": [
            {"arm": each.run.arm, "seed": each.run.seed, "reason": each.reason}
            for each in result.failures
        ],
    }


def compared(runs: Mapping[str, Sequence[Run]]) -> list[Difference]:
    """What is shown of how the arms differ from the first of them."""
    summaries = [run.summary for each in runs.values() for run in each]
    return differences(runs, (*METRICS, *shown_precision(summaries)))


def write_compare_pages(
    runs: Mapping[str, Sequence[Run]], found: list[Difference], root: Path
) -> None:
    """Write the picture and the report of a comparison into a folder."""
    from superinfer.lab.pictures.figures import write_compare_plot
    from superinfer.lab.report import REPORT_HTML, write_compare_report

    write_compare_plot(runs, root / PICTURE)
    first = [(name, each[0].folder) for name, each in runs.items()]
    write_compare_report(first, root / REPORT_HTML, _reported(runs, found))


# -- the study of a comparison --------------------------------------------------------------------


def _study(
    arms: Arms,
    seeds: Sequence[int],
    root: Path,
    workers: int,
    options: RunOptions,
    stdin: bytes | None,
) -> Study:
    """The study of a comparison; its results lie in the comparison's folder until the end."""
    make = partial(Simulate, options.plots)
    runner, inputs = fed_runner(make, root / STUDY / STDIN, stdin)
    return Study(arms, root / STUDY, runner, seeds, inputs, workers)


def _place(result: StudyResult, seeds: Sequence[int], root: Path) -> None:
    """Give every arm its result folders, and let `result` name these."""
    for name, folders in result.folders.items():
        home = root / plain_name(name)
        targets = [home / f"seed-{seed}" for seed in seeds] or [home]
        for source, target in zip(folders, targets, strict=True):
            _copy_folder(source, target)
        result.folders[name] = targets
        say(f"results in {home}")


def _copy_folder(source: Path, target: Path) -> None:
    """Put a copy at `target` in place of what an earlier try left there."""
    if (target / SUMMARY).exists():
        if (target / SUMMARY).read_bytes() == (source / SUMMARY).read_bytes():
            return
        shutil.rmtree(target)
    staged = source.parent / f".{source.name}.copy"
    try:
        shutil.copytree(source, staged, copy_function=os.link)
    except (OSError, shutil.Error):  # no links on this file system, or what a stop left there
        shutil.rmtree(staged, ignore_errors=True)
        shutil.copytree(source, staged)
    target.parent.mkdir(parents=True, exist_ok=True)
    staged.rename(target)


# -- the outcome ----------------------------------------------------------------------------------


def _conclude(study: Study, result: StudyResult, root: Path, options: RunOptions) -> None:
    """Write and show the differences between the arms that are complete, if the reference is."""
    if next(iter(study.arms)) not in result.folders or len(result.folders) < 2:
        return
    runs = {name: whole_runs(result, name) for name in result.folders}
    found = compared(runs)
    text = json.dumps(comparison(runs, found, result, root), indent=2)
    write_outcome(root / COMPARISON, text)
    means = [(name, _mean([run.summary for run in each])) for name, each in runs.items()]
    if options.as_json:
        print_out(text)
    else:
        from superinfer.lab.tables import compare_table, precision_table

        print_table(compare_table(means, found))
        if (by_class := precision_table(means)) is not None:
            print_table(by_class)
    if options.plots:
        write_compare_pages(runs, found, root)
        say_of_letters(*(run.summary for each in runs.values() for run in each), arms=runs)


def _mean(summaries: Sequence[Summary]) -> Summary:
    """The mean over seeds, with the settings that all of them had."""
    return {**mean_summary(summaries), "run": summaries[0].get("run")}


def _reported(runs: Mapping[str, Sequence[Run]], found: list[Difference]) -> list[Difference]:
    """The differences that a report shows; with several seeds also those of groups of requests."""
    if all(len(each) == 1 for each in runs.values()):
        return found
    from superinfer.lab.report.values import compared_metrics

    return differences(runs, compared_metrics(next(iter(runs.values()))[0].summary))


def _warn(result: StudyResult) -> None:
    """For every arm, name the run that spent most of its time outside the measured range, and the
    first ones that were sent more than they could serve, and for less time than is measured.
    """
    arms = {name: whole_runs(result, name) for name in result.folders}
    # All arms are sent the same: where it was too much for one, it may have been for its rivals.
    late = ALIKE if any(_overload(run) for runs in arms.values() for run in runs) else LATE
    for name, runs in arms.items():
        worst = _worst(runs)
        if warning := range_warning(worst.summary["trust"]):
            say(f"warning: {_place_of(name, worst, runs)}: {warning}")
        nominal = nominal_warning(worst.config["run"], worst.summary["trust"])
        for warning in (assumed_warning(worst.summary["trust"]), nominal):
            if warning:
                say(f"warning: arm {name}: {warning}")
        for about in (partial(_overload, late=late), idle_window):
            if told := next(((run, line) for run in runs if (line := about(run))), None):
                say(f"warning: {_place_of(name, told[0], runs)}: {told[1]}")


def warn_of_worst(whose: str, runs: Sequence[Run]) -> None:
    """What the worst of these runs left of the measured range, and what all of them assume."""
    worst = _worst(runs)
    for warning in warnings_of(worst.config["run"], worst.summary["trust"]):
        say(f"warning: {whose}: {warning}")


def _worst(runs: Sequence[Run]) -> Run:
    return max(runs, key=lambda run: float(run.summary["trust"]["extrapolated_share"]))


def _place_of(name: str, run: Run, runs: Sequence[Run]) -> str:
    """An arm, and the seed of its run if it has several."""
    seed = f", seed {run.config['run']['seed']}" if len(runs) > 1 else ""
    return f"arm {name}{seed}"


def idle_window(run: Run) -> str:
    """That a run was measured for longer than requests came, in words; empty if not."""
    window_s = run.summary["load"]["window_s"]
    return window_warning(window_s, run.columns("requests")["arrival_s"]) if window_s else ""


def _overload(run: Run, late: float = LATE) -> str:
    requests = run.columns("requests")
    ttft_s = requests["ttft_ms"] / 1e3
    return overload_warning(run.summary["load"], requests["arrival_s"], ttft_s, late)


def _entry(run: Run, root: Path) -> dict[str, Any]:
    summary = {key: value for key, value in run.summary.items() if key not in WALL_CLOCK}
    return {
        "seed": run.config["run"]["seed"],
        "folder": run.folder.relative_to(root).as_posix(),
        "summary": json.loads(summary_json(summary)),
    }
