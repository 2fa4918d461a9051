"""What the commands of `superinfer-sim` do: read, simulate, summarise, write, show."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sim.run import SimResult, run_simulation
from superinfer.errors import ConfigError
from superinfer.lab.config import Config
from superinfer.lab.gates import check_gates, parse_gate
from superinfer.lab.results import default_folder, summary_json, write_run
from superinfer.metrics import RunMetrics
from superinfer.slo_classes import PRESETS, class_from_table, load_classes
from traces.readers import read_trace
from traces.workload import Workload

GATE_FAILED = 3


@dataclass(slots=True, frozen=True)
class RunOptions:
    """What to do with a result."""

    out: Path | None = None
    classes: Path | None = None
    require: tuple[str, ...] = ()
    as_json: bool = False
    plots: bool = True


def run_command(config: Config, options: RunOptions) -> int:
    """Run one configuration; returns the exit code."""
    gates = [parse_gate(text) for text in options.require]
    workload = load_workload(config, options.classes)
    folder = options.out or default_folder(config.run.trace, config.run.scheduler)
    summary, written = run_and_write(config, workload, folder, plots=options.plots)
    _show(summary, options.as_json)
    print(f"results in {written}", file=sys.stderr)
    failed = [result for result in check_gates(gates, summary) if not result.passed]
    for result in failed:
        print(result, file=sys.stderr)
    return GATE_FAILED if failed else 0


def compare_command(arms: dict[str, Config], options: RunOptions) -> int:
    """Run several configurations on one workload; returns the exit code."""
    if len(arms) < 2:
        raise ConfigError("compare: expected at least two schedulers or configurations")
    first = next(iter(arms.values()))
    workload = load_workload(first, options.classes)
    root = options.out or default_folder(first.run.trace, "compare")
    runs = []
    for name, config in arms.items():
        print(f"running {name}", file=sys.stderr)
        folder = root / name.replace("/", "-").replace(":", ".")
        runs.append((name, run_and_write(config, workload, folder, plots=options.plots)[0]))
    _show_comparison(runs, options.as_json)
    if options.plots:
        from superinfer.lab.plots import write_compare_plot

        write_compare_plot(runs, root / "compare.png")
    print(f"results in {root}", file=sys.stderr)
    return 0


def load_workload(config: Config, classes_file: Path | None) -> Workload:
    """Read the trace with the classes that apply: presets, `--classes`, then `[classes]`."""
    run = config.run
    classes = dict(PRESETS) if classes_file is None else load_classes(classes_file)
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
    for warning in workload.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if workload.skipped:
        print(
            f"warning: {run.trace}: skipped {workload.skipped} bad lines",
            file=sys.stderr,
        )
    return workload


def run_and_write(
    config: Config, workload: Workload, folder: Path, *, plots: bool
) -> tuple[dict[str, Any], Path]:
    """Simulate, summarise and write the result folder; returns the summary and the folder."""
    result = run_simulation(config, workload)
    metrics = RunMetrics(result.record)
    summary = metrics.summary(_extra(config, workload, result))
    written = write_run(folder, metrics, summary, config.resolved())
    if plots:
        from superinfer.lab.plots import write_plots

        write_plots(written, written)
    return summary, written


def _extra(config: Config, workload: Workload, result: SimResult) -> dict[str, Any]:
    """What the record cannot know."""
    wall_s = result.wall_s
    return {
        "wall_s": wall_s,
        "scheduler_s": result.scheduler_s,
        "sim_requests_per_wall_s": len(workload.requests) / wall_s if wall_s else None,
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


def _show(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(summary_json(summary))
        return
    from rich.console import Console

    from superinfer.lab.tables import summary_table

    Console().print(summary_table(summary))


def _show_comparison(runs: list[tuple[str, dict[str, Any]]], as_json: bool) -> None:
    if as_json:
        print(json.dumps({name: json.loads(summary_json(run)) for name, run in runs}, indent=2))
        return
    from rich.console import Console

    from superinfer.lab.tables import compare_table

    Console().print(compare_table(runs))
