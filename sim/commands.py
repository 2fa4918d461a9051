"""What the commands of `superinfer-sim` do: read, simulate, summarise, write, show."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sim.run import SimResult, build_engine, run_simulation
from superinfer.errors import ConfigError, InputError, SuperInferError
from superinfer.lab.config import Config
from superinfer.lab.gates import check_gates, parse_gate
from superinfer.lab.results import default_folder, summary_json, write_run
from superinfer.metrics import RunMetrics, Window
from superinfer.slo_classes import PRESETS, class_from_table
from traces.cli import print_out, print_table
from traces.readers import read_trace
from traces.workload import Workload

GATE_FAILED = 3
WORKLOAD_KEYS = (
    "trace",
    "rate_scale",
    "concurrency",
    "sessions",
    "backlog",
    "duration_s",
    "window_s",
    "limit",
    "spread",
    "skip_bad",
    "without_slo",
)
"""What all arms of a comparison must agree on, beside the classes."""

Summary = dict[str, Any]


@dataclass(slots=True, frozen=True)
class RunOptions:
    """What to do with a result."""

    out: Path | None = None
    require: tuple[str, ...] = ()
    as_json: bool = False
    plots: bool = True


def run_command(config: Config, options: RunOptions) -> int:
    """Run one configuration; returns the exit code."""
    gates = [parse_gate(text) for text in options.require]
    _prepare({config.run.scheduler: config}, options)
    workload = load_workload(config)
    folder = options.out or _default_folder(config, workload, config.run.scheduler)
    check_folder(folder)
    summary = run_and_write(config, workload, folder, options, _show)
    failed = [result for result in check_gates(gates, summary) if not result.passed]
    for result in failed:
        _say(str(result))
    return GATE_FAILED if failed else 0


def compare_command(arms: dict[str, Config], options: RunOptions) -> int:
    """Run several configurations on one workload; returns the exit code.

    Every arm has a result folder of its own, which is there as soon as the arm has ended.
    """
    _prepare(arms, options)
    first = next(iter(arms.values()))
    workload = load_workload(first)
    root = _unused(options.out or _default_folder(first, workload, "compare"))
    check_folder(root)
    runs = []
    for name, config in arms.items():
        _say(f"running {name}")
        with _in_arm(name):
            folder = root / name.replace("/", "-").replace(":", ".")
            runs.append((name, run_and_write(config, workload, folder, options)))
    _show_comparison(runs, options.as_json)
    if options.plots:
        from superinfer.lab.plots import write_compare_plot

        write_compare_plot(runs, root / "compare.png")
    return 0


def load_arms(
    schedulers: Sequence[str],
    files: Sequence[Path],
    load: Callable[[Path | None, str | None], Config],
) -> dict[str, Config]:
    """One configuration per scheduler name and per file, all of the same workload.

    `load` gets the file or None, and the scheduler or None.
    """
    wanted: list[tuple[str, Path | None, str | None]] = [(name, None, name) for name in schedulers]
    wanted += [(file.stem, file, None) for file in files]
    arms: dict[str, Config] = {}
    for name, file, scheduler in wanted:
        if name in arms:
            raise ConfigError(f"compare: expected different names, got {name!r} twice")
        with _in_arm(name):
            arms[name] = load(file, scheduler)
    if len(arms) < 2:
        found = ", ".join(arms) or "none"
        raise ConfigError(f"compare: expected two or more --schedulers or --arm, got {found}")
    _require_same_workload(arms)
    return arms


def load_workload(config: Config) -> Workload:
    """Read the trace with the presets and the classes of the configuration."""
    run = config.run
    if not run.trace:
        raise ConfigError("TRACE: expected a trace file here or as run.trace in a --config file")
    if run.trace == "-" and sys.stdin is None:
        raise InputError("expected a trace, got a closed standard input", file="<stdin>")
    classes = dict(PRESETS)
    for name, table in config.classes.items():
        classes[name] = class_from_table(name, table, classes.get(name, PRESETS["default"]))
    workload = read_trace(
        run.trace,
        classes=classes,
        skip_bad=run.skip_bad,
        spread=run.spread,
        limit=run.limit or None,
        without_slo=run.without_slo,
    )
    if run.rate_scale != 1.0:
        for request in workload.requests:
            request.arrival_s /= run.rate_scale
    for warning in workload.warnings:
        _say(f"warning: {warning}")
    if workload.skipped:
        _say(f"warning: {run.trace}: skipped {workload.skipped} bad lines")
    return workload


def window_of(config: Config) -> Window | None:
    """The steady window that the configuration wants to be measured."""
    return Window(*config.run.window_s) if config.run.window_s else None


def run_and_write(
    config: Config,
    workload: Workload,
    folder: Path,
    options: RunOptions,
    show: Callable[[Summary, bool], None] | None = None,
) -> Summary:
    """Simulate, summarise, write the result folder, show; returns the summary.

    The summary is shown even when the folder cannot be written.
    """
    result = run_simulation(config, workload)
    metrics = RunMetrics(result.record, window_of(config))
    summary = metrics.summary(_extra(config, workload, result))
    try:
        written = write_run(folder, metrics, summary, config.resolved())
        _say(f"results in {written}")
    finally:
        if show is not None:
            show(summary, options.as_json)
    if options.plots:
        from superinfer.lab.plots import write_plots

        write_plots(written, written)
    return summary


def check_folder(folder: Path) -> None:
    """Find out before a long run whether its result folder can be made."""
    if folder.name in ("", ".."):
        raise ConfigError(f"--out: expected the name of a result folder, got {str(folder)!r}")
    try:
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"--out: expected a folder, got a file: {folder}")
        parent = next(parent for parent in folder.absolute().parents if parent.exists())
        probe = parent / f".{folder.name}.{os.getpid()}.tmp"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise ConfigError(f"--out: cannot write {folder}: {error.strerror}") from None


# -- inside ---------------------------------------------------------------------------------------


def _prepare(arms: dict[str, Config], options: RunOptions) -> None:
    """Meet every fault that needs no trace before the trace is read."""
    if options.out is not None:
        check_folder(options.out)
    for name, config in arms.items():
        for note in config.notes:
            _say(f"warning: {note}")
        if len(arms) == 1:
            build_engine(config)
        else:
            with _in_arm(name):
                build_engine(config)


def _require_same_workload(arms: dict[str, Config]) -> None:
    (reference, first), *others = arms.items()
    for name, config in others:
        for key in WORKLOAD_KEYS:
            wanted, found = getattr(first.run, key), getattr(config.run, key)
            if found != wanted:
                expected = f"expected {wanted!r} as in {reference}, got {found!r}"
                raise ConfigError(f"arm {name}: run.{key}: {expected}")
        if config.classes != first.classes:
            raise ConfigError(f"arm {name}: classes: expected the same as in {reference}")


@contextmanager
def _in_arm(name: str) -> Iterator[None]:
    """Say in which arm of a comparison an error happened."""
    try:
        yield
    except InputError:
        raise  # it names a file
    except SuperInferError as error:
        raise type(error)(f"arm {name}: {error}") from None


def _default_folder(config: Config, workload: Workload, what: str) -> Path:
    trace = config.run.trace
    return default_folder(workload.name if trace == "-" else trace, what)


def _unused(folder: Path) -> Path:
    """`folder`, or `folder-2`, `folder-3`, ... if it exists."""
    unused, number = folder, 1
    while unused.is_dir() and folder.name:
        number += 1
        unused = folder.with_name(f"{folder.name}-{number}")
    return unused


def _extra(config: Config, workload: Workload, result: SimResult) -> Summary:
    """What the record cannot know."""
    wall_s = result.wall_s
    return {
        "wall_s": wall_s,
        "scheduler_s": result.scheduler_s,
        "sim_requests_per_wall_s": len(workload.requests) / wall_s if wall_s else None,
        "load": result.load,
        "trust": result.trust,
        "run": {
            **config.resolved(),
            "simulated": True,
            "kv_blocks": result.engine.total_blocks,
            "block_tokens": result.engine.block_tokens,
            "block_bytes": result.engine.block_bytes,
            "host_blocks": result.engine.host_blocks,
            "requests": len(workload.requests),
            "skipped_lines": workload.skipped,
            "raised_max_tokens": workload.raised_max_tokens,
            "versions": _versions(),
        },
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("superinfer", "simpy", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # run from a checkout that is not installed
            versions[package] = "unknown"
    return versions


def _show(summary: Summary, as_json: bool) -> None:
    if as_json:
        print_out(summary_json(summary))
        return
    from superinfer.lab.tables import summary_table

    print_table(summary_table(summary))


def _show_comparison(runs: list[tuple[str, Summary]], as_json: bool) -> None:
    if as_json:
        summaries = {name: json.loads(summary_json(summary)) for name, summary in runs}
        print_out(json.dumps(summaries, indent=2))
        return
    from superinfer.lab.tables import compare_table

    print_table(compare_table(runs))


def _say(text: str) -> None:
    """A line for the user, apart from the result."""
    print(text, file=sys.stderr)
