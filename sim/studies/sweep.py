"""`superinfer-sim sweep`: schedulers over a grid of settings, and the peak goodput in targets.

Every point is a run of a study (one per seed) that stays in the folder of the sweep under a hash of
all that it depends on. So a sweep that was stopped, killed or is given more points runs only what
is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sim.commands import check_folder, default_run_folder, read_workload
from sim.notices.before import Points as Named
from sim.notices.before import say_of_parts, say_of_points, warn_of_absent_classes
from sim.run import build_engine
from sim.studies.arms import in_arm
from sim.studies.compare import idle_window, warn_of_worst
from sim.studies.folder import check_kept, kept, write_outcome
from sim.studies.points import POINTS, study_of_points
from sim.studies.seeds import check_seeds
from sim.studies.sweep_page import peak_table, sweep_frame, sweep_json, sweep_table
from sim.studies.unequal_arms import kv_tokens_of, unequal_memory, unequal_release
from sim.studies.whole_runs import whole_runs
from sim.workload import kept_stdin
from superinfer.errors import ConfigError
from superinfer.lab.cli.progress import showing_progress
from superinfer.lab.cli.terminal import say
from superinfer.lab.columns import write_columns
from superinfer.lab.config import Config
from superinfer.lab.config.run import RunConfig
from superinfer.lab.studies.axes import Axis, Place, Value, place_text, places
from superinfer.lab.studies.engines.base import StudyEngine
from superinfer.lab.studies.study import Study, run_study
from superinfer.lab.studies.sweep_points import Peak, Point, Points, peaks, rate_axis, to_refine
from superinfer.outputs import replacing
from traces.printing import print_out, print_table

SWEEP, TABLE = "sweep.json", "sweep.parquet"

SweepArm = Callable[[Mapping[str, Value]], Config]
"""The configuration of a scheduler with some settings, by their key, laid over it."""
Arms = Mapping[str, SweepArm]
Key = tuple[str, Place]
"""Name of an arm and the values of the axes."""


@dataclass(slots=True, frozen=True)
class SweepWish:
    """What is asked for."""

    axes: tuple[Axis, ...]
    engine: StudyEngine
    attainment: float = 0.95
    """Share of the requests with targets that are to meet them."""
    refine: float = 0.0
    """How close, relative, the largest rate that keeps it is to be found; 0: as the axis goes."""
    seeds: int = 1
    out: Path | None = None
    as_json: bool = False
    plots: bool = True


def sweep_command(arms: Arms, wish: SweepWish) -> int:
    """Run every point, write and show what came out; returns the exit code."""
    configs = _configs(arms, wish, [(name, at) for name in arms for at in places(wish.axes)])
    first = _check(arms, configs, wish)
    _say_what_axes_replace(arms, wish.axes)
    stdin = kept_stdin(first)
    workload = read_workload(first)
    varied = [axis.key for axis in wish.axes]
    say_of_points(_named(configs, wish), workload, varied)
    warn_of_absent_classes(varied, workload)
    root = wish.out or default_run_folder(first, workload, "sweep")
    check_folder(root)
    study = study_of_points(root, stdin, first.run, wish.seeds, wish.engine)
    with kept(root), wish.engine.session():
        points, failures = _search(arms, wish, configs, study)
    found = peaks(wish.axes, points, wish.attainment)
    _conclude(wish, points, found, failures, root)
    for failure in failures:
        say(f"error: {failure}")
    _warn(wish, points)
    return 1 if failures else 0


# -- checks ---------------------------------------------------------------------------------------


def _configs(arms: Arms, wish: SweepWish, keys: Iterable[Key]) -> dict[Key, Config]:
    """The configuration of every point; ConfigError, with the place, for one that cannot be."""
    found = {}
    for name, place in keys:
        settings = {axis.key: value for axis, value in zip(wish.axes, place, strict=True)}
        with in_arm(f"{name} at {place_text(wish.axes, place)}"):
            found[name, place] = arms[name](settings)
    return found


def _check(arms: Arms, configs: Mapping[Key, Config], wish: SweepWish) -> Config:
    """Meet every fault before the trace is read; the first configuration."""
    if not arms:
        raise ConfigError("sweep: expected one or more --schedulers or --arm, got none")
    if any(axis.key == "run.scheduler" for axis in wish.axes):
        raise ConfigError("--over run.scheduler: expected schedulers as --schedulers a,b")
    if wish.seeds > 1 and any(axis.key == "run.seed" for axis in wish.axes):
        raise ConfigError("--over run.seed: --seeds replaces it, give one of them")
    if wish.refine and rate_axis(wish.axes) is None:
        raise ConfigError("--refine: expected the rate among the axes: --over rate=...")
    if wish.out is not None:
        check_kept(wish.out, POINTS)
    for note in dict.fromkeys(note for config in configs.values() for note in config.notes):
        say(f"warning: {note}")
    kv_tokens = {}
    for (name, place), config in configs.items():
        with in_arm(f"{name} at {place_text(wish.axes, place)}"):
            kv_tokens[name, place] = kv_tokens_of(build_engine(config)[0])
    say_of_parts(_named(configs, wish))
    _warn_of_unequal_arms(configs, kv_tokens)
    first = next(iter(configs.values()))
    check_seeds(first.run, wish.seeds)
    return first


def _say_what_axes_replace(arms: Arms, axes: Iterable[Axis]) -> None:
    """An axis takes the place of what a file or a release says of a run: a `rate_scale` is not
    multiplied.
    """
    runs = [arm({}).run for arm in arms.values()]
    for axis in axes:
        section, _, name = axis.key.partition(".")
        if section == "run" and hasattr(RunConfig, name):
            usual = getattr(RunConfig(), name)
            said = {getattr(run, name): None for run in runs if getattr(run, name) != usual}
            for value in said:
                say(f"note: {axis.key} {value} is not used: --over {axis.name} says what is tried")


def _named(configs: Mapping[Key, Config], wish: SweepWish) -> Named:
    """The points as they are called when something is said of them."""
    return {
        (name, place_text(wish.axes, place)): config for (name, place), config in configs.items()
    }


def _warn_of_unequal_arms(configs: Mapping[Key, Config], kv_tokens: Mapping[Key, int]) -> None:
    """Of their memory and their releases, each at the first point where it can be said."""
    lines: dict[str, str] = {}
    for place in dict.fromkeys(place for _, place in configs):
        arms = {name: config for (name, at), config in configs.items() if at == place}
        memory = unequal_memory(arms, {name: kv_tokens[name, place] for name in arms})
        for kind, line in (("memory", memory), ("release", unequal_release(arms))):
            if line:
                lines.setdefault(kind, line)
    for line in lines.values():
        say(line)


# -- runs -----------------------------------------------------------------------------------------


def _search(
    arms: Arms, wish: SweepWish, configs: Mapping[Key, Config], study: Study
) -> tuple[list[Point], list[str]]:
    """Every point of the grid, then those between rates that hold and rates that fail."""
    points, failures = _run(study, wish, configs)
    while wish.refine and not failures:
        more = to_refine(wish.axes, points, wish.attainment, wish.refine)
        if not more:
            break
        found, failures = _run(study, wish, _configs(arms, wish, more))
        points += found
    return points, failures


def _run(
    study: Study, wish: SweepWish, configs: Mapping[Key, Config]
) -> tuple[list[Point], list[str]]:
    """The points of these configurations, and why others have none."""
    keys = {f"{name} at {place_text(wish.axes, at)}": (name, at) for name, at in configs}
    named = {text: configs[key] for text, key in keys.items()}
    with showing_progress() as report:
        result = run_study(replace(study, arms=named), report)
    if result.reused:
        say(f"{result.reused} of {len(named) * (len(study.seeds) or 1)} runs were there before")
    points = [Point(*keys[text], tuple(whole_runs(result, text))) for text in result.folders]
    return points, [str(failure) for failure in result.failures]


# -- the outcome ----------------------------------------------------------------------------------


def _conclude(
    wish: SweepWish,
    points: Points,
    found: Sequence[Peak],
    failures: Sequence[str],
    root: Path,
) -> None:
    """Write and show what was found; it is shown even if it cannot be written."""
    outcome = sweep_json(wish.axes, wish.attainment, points, found, failures, root)
    text = json.dumps(outcome, indent=2)
    try:
        write_outcome(root / SWEEP, text)
        if points:
            with replacing(root / TABLE) as staged:
                write_columns(staged, sweep_frame(wish.axes, points, root))
        if wish.plots and points:
            from superinfer.lab.pictures.sweep import write_sweep_plots

            write_sweep_plots(wish.axes, points, found, wish.attainment, root)
        say(f"sweep in {root}")
    finally:
        if wish.as_json:
            print_out(text)
        elif points:
            print_table(sweep_table(wish.axes, points))
            if found:
                print_table(peak_table(wish.axes, found, wish.attainment))
    if not found:
        say(f"note: {_why_no_peak(wish, points)}")


def _why_no_peak(wish: SweepWish, points: Points) -> str:
    if not points:
        return "nothing to show: no run came to its end"
    if rate_axis(wish.axes) is None:
        return "no peak goodput without rate among the axes (--over rate=...)"
    return "no peak goodput: no request has a target"


def _warn(wish: SweepWish, points: Points) -> None:
    """For every arm, what its worst run left of the measured range, or assumes; and the first point
    that is measured for longer than requests come.
    """
    for arm in dict.fromkeys(point.arm for point in points):
        warn_of_worst(f"arm {arm}", [run for p in points if p.arm == arm for run in p.runs])
    for point in points:
        if line := next(filter(None, map(idle_window, point.runs)), ""):
            say(f"warning: {point.arm} at {place_text(wish.axes, point.place)}: {line}")
            break
