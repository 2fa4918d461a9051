"""What the commands of `superinfer-sim` do: read, simulate, summarise, write.

How a run becomes a summary is in `summaries.py`, what is said meanwhile in `notices`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sim.notices.after import say_of_letters, say_of_run, show_summary
from sim.notices.before import as_point, say_of_parts, say_of_points, say_of_workload, warn_of_notes
from sim.run import build_engine, copy_seconds
from sim.summaries import few_summary, simulated
from sim.workload import load_workload
from superinfer.collection import no_collection
from superinfer.errors import ConfigError, InputError
from superinfer.lab.cli.terminal import say
from superinfer.lab.config import Config
from superinfer.lab.gates import Gate, check_gates, check_keys, parse_gate
from superinfer.lab.report import write_pages
from superinfer.lab.results import default_folder, write_run
from superinfer.metrics import RunMetrics
from superinfer.metrics.summary import Summary
from superinfer.outputs import check_writable
from traces.workload import Workload

if TYPE_CHECKING:
    from superinfer.lab.timelines.timeline import TimelineSink

GATE_FAILED = 3


@dataclass(slots=True, frozen=True)
class RunOptions:
    """What to do with a result."""

    out: Path | None = None
    require: tuple[str, ...] = ()
    as_json: bool = False
    plots: bool = True
    """Pictures and the HTML report."""
    timeline: bool = False


def run_command(config: Config, options: RunOptions) -> int:
    """Run one configuration, as the last thing that the process does; returns the exit code."""
    with no_collection(last=True):
        return _run(config, options)


def _run(config: Config, options: RunOptions) -> int:
    gates = [parse_gate(text) for text in options.require]
    _prepare(config, options)
    workload = read_workload(config)
    say_of_points(as_point(config), workload)
    folder = options.out or default_run_folder(config, workload, config.run.scheduler)
    check_folder(folder)
    _check_required(gates, config, workload)
    summary = run_and_write(config, workload, folder, options, show_summary)
    failed = [result for result in check_gates(gates, summary) if not result.passed]
    for result in failed:
        say(str(result))
    return GATE_FAILED if failed else 0


def read_workload(config: Config) -> Workload:
    """The workload of a configuration; warnings go to standard error."""
    workload = load_workload(config)
    say_of_workload(config, workload)
    return workload


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
    sinks = _timeline_sinks(config) if options.timeline else []
    metrics, summary = simulated(config, workload, sinks)
    try:
        written = write_run(folder, metrics, summary, config.resolved())
        say(f"results in {written}")
    finally:
        if show is not None:
            show(summary, options.as_json)
            say_of_run(config, metrics, summary)
    if options.plots:
        write_pages(written)
        say_of_letters(summary)
    if sinks:
        timeline = _write_timeline(sinks, written, metrics, config)
        if options.plots:
            from superinfer.lab.pictures.figures import write_requests_plot

            write_requests_plot(timeline)
    return summary


def check_folder(folder: Path) -> None:
    """Find out before a long run whether its result folder can be made."""
    if folder.name in ("", ".."):
        raise ConfigError(f"--out: expected the name of a result folder, got {str(folder)!r}")
    try:
        check_writable(folder)
    except InputError as error:
        raise ConfigError(f"--out: {error}") from None


def default_run_folder(config: Config, workload: Workload, what: str) -> Path:
    """`runs/<trace>-<what>-<time>`."""
    trace = config.run.trace
    return default_folder(workload.name if trace == "-" else trace, what)


# -- inside ---------------------------------------------------------------------------------------


def _prepare(config: Config, options: RunOptions) -> None:
    """Meet every fault that needs no trace before the trace is read."""
    if options.out is not None:
        check_folder(options.out)
    warn_of_notes(config)
    build_engine(config)
    say_of_parts(as_point(config))


def _check_required(gates: Sequence[Gate], config: Config, workload: Workload) -> None:
    """Find out before a long run whether its summary will have what is required."""
    if gates:
        check_keys(gates, few_summary(config, workload))


def _timeline_sinks(config: Config) -> list[TimelineSink]:
    """One per replica, which share the number of requests that are shown."""
    from superinfer.lab.timelines.timeline import MAX_REQUESTS, TimelineSink

    full_duplex = bool(getattr(config.build_scheduler(), "full_duplex", False))
    replicas = config.run.replicas
    most = max(1, MAX_REQUESTS // replicas)
    return [
        TimelineSink(lag=config.run.lag, full_duplex=full_duplex, max_requests=most)
        for _ in range(replicas)
    ]


def _write_timeline(
    sinks: Sequence[TimelineSink], folder: Path, metrics: RunMetrics, config: Config
) -> Path:
    from superinfer.lab.timelines.timeline import TIMELINE_JSON, write_timeline

    path = folder / TIMELINE_JSON
    write_timeline(sinks, path, record=metrics.record, copy_s=copy_seconds(config))
    shown, submitted = (sum(found) for found in zip(*map(_shown, sinks), strict=True))
    if shown < submitted:
        said = f"{shown:,} of {submitted:,} requests"
        if len(sinks) == 1:
            say(f"{path.name} shows the first {said}")
        else:
            say(f"{path.name} shows {said}: the first {sinks[0].max_requests:,} of each replica")
    return path


def _shown(sink: TimelineSink) -> tuple[int, int]:
    return len(sink.shown), sink.submitted
