"""What the commands of `superinfer-sim` do: read, simulate, summarise, write, show."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.run import (
    SimResult,
    build_engine,
    copy_seconds,
    engines_freed,
    no_collection,
    run_simulation,
)
from sim.workload import load_workload
from superinfer.errors import ConfigError, InputError
from superinfer.events import Sink
from superinfer.lab.config import Config
from superinfer.lab.config.run import RunConfig
from superinfer.lab.gates import Gate, check_gates, check_keys, parse_gate
from superinfer.lab.idle_settings import idle_settings
from superinfer.lab.overload import overload_warning
from superinfer.lab.results import default_folder, load_run, summary_json, write_run
from superinfer.lab.trust import warnings_of
from superinfer.lab.versions import versions
from superinfer.metrics import RunMetrics, Window
from superinfer.outputs import check_writable
from superinfer.request import DEFAULT_CLASS
from superinfer.slo_classes import PRESETS
from traces.cli import print_out, print_table
from traces.workload import Workload

if TYPE_CHECKING:
    from superinfer.lab.timelines.timeline import TimelineSink

GATE_FAILED = 3

Summary = dict[str, Any]


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
    folder = options.out or default_run_folder(config, workload, config.run.scheduler)
    check_folder(folder)
    _check_required(gates, config, workload)
    summary = run_and_write(config, workload, folder, options, _show)
    failed = [result for result in check_gates(gates, summary) if not result.passed]
    for result in failed:
        say(str(result))
    return GATE_FAILED if failed else 0


def read_workload(config: Config) -> Workload:
    """The workload of a configuration; warnings go to standard error."""
    workload = load_workload(config)
    for warning in (*workload.warnings, *idle_settings(config, workload.requests)):
        say(f"warning: {warning}")
    if workload.skipped:
        say(f"warning: {config.run.trace}: {workload.skipped_note}")
    return workload


def window_of(config: Config) -> Window | None:
    """The steady window that the configuration wants to be measured."""
    return Window(*config.run.window_s) if config.run.window_s else None


def simulated(
    config: Config, workload: Workload, sinks: Sequence[Sink] = ()
) -> tuple[RunMetrics, Summary]:
    """Simulate and summarise; writes and shows nothing. `sinks`: one per replica, or none."""
    with engines_freed(len(workload.requests)):
        result = run_simulation(config, workload, sinks=sinks)
    metrics = RunMetrics(result.record, window_of(config))
    return metrics, metrics.summary(_extra(config, workload, result))


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
            say_without_targets(summary)
            _say_who_was_not_served(metrics)
            _say_if_nobody_was_measured(config, summary)
            view = metrics.view
            if warning := overload_warning(summary["load"], view.arrival_s, view.ttft_s):
                say(f"warning: {warning}")
    if options.plots:
        write_pages(written)
    if sinks:
        timeline = _write_timeline(sinks, written, metrics, config)
        if options.plots:
            from superinfer.lab.pictures.figures import write_requests_plot

            write_requests_plot(timeline)
    return summary


def _say_if_nobody_was_measured(config: Config, summary: Summary) -> None:
    if config.run.window_s and not summary["submitted"]:
        start_s, end_s = config.run.window_s
        say(f"warning: no request arrives from {start_s:g} to {end_s:g} s (run.window_s)")


def write_pages(folder: Path) -> None:
    """Write the pictures and the report of a result folder into it."""
    from superinfer.lab.pictures.figures import write_plots
    from superinfer.lab.report import write_report

    run = load_run(folder)
    write_plots(run, folder)
    write_report(run)


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


def say(text: str) -> None:
    """A line for the user, apart from the result."""
    print(text, file=sys.stderr)


def warn_of_notes(config: Config) -> None:
    """Say how the parts of a configuration were put together, where a user should know."""
    for note in config.notes:
        say(f"warning: {note}")


def warn_of_absent_classes(keys: Iterable[str], workload: Workload) -> None:
    """Name settings that are varied and belong to a class that no request is of. Classes of one's
    own take from the default one what they do not say.
    """
    there = {request.slo_class.name for request in workload.requests}
    matter = there if there <= PRESETS.keys() else {*there, DEFAULT_CLASS.name}
    for key in keys:
        section, _, rest = key.partition(".")
        name = rest.partition(".")[0]
        if section == "classes" and name not in matter:
            known = ", ".join(sorted(there))
            say(f"warning: {key}: no request is of class {name}; the classes here are {known}")


def say_without_targets(*summaries: Summary) -> None:
    """Say why nothing is shown of targets, where requests were judged and none of them has one,
    unless that is what was asked for.
    """
    if all(each["run"]["run"]["without_slo"] for each in summaries):
        return
    if all(each["submitted"] and each["slo_attainment"] is None for each in summaries):
        say("note: no request has a target: --classes gives some (docs/bring-a-trace.md)")


# -- inside ---------------------------------------------------------------------------------------


def _say_who_was_not_served(metrics: RunMetrics) -> None:
    """The rules by which requests were turned away or failed, with how many."""
    rules = Counter(rule for rule in metrics.record.table.reject_reason if rule)
    if rules:
        told = ", ".join(f"{rule} {count:,}" for rule, count in rules.most_common())
        say(f"note: requests that were turned away or failed, by rule: {told}")


def _prepare(config: Config, options: RunOptions) -> None:
    """Meet every fault that needs no trace before the trace is read."""
    if options.out is not None:
        check_folder(options.out)
    warn_of_notes(config)
    if config.run.replicas == 1:
        if config.router:
            say("warning: [router]: not used with one replica")
        elif config.run.router != RunConfig().router:
            say(f"warning: run.router: {config.run.router} is not used with one replica")
    build_engine(config)


def _check_required(gates: Sequence[Gate], config: Config, workload: Workload) -> None:
    """Find out before a long run whether its summary will have what is required."""
    if gates:
        from sim.studies.known_metrics import few_summary

        check_keys(gates, few_summary(config, workload))


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
            "versions": versions("superinfer", "simpy", "numpy"),
        },
    }


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
        of = "" if len(sinks) == 1 else " of each replica"
        say(f"{path.name} shows the first {shown:,} of {submitted:,} requests{of}")
    return path


def _shown(sink: TimelineSink) -> tuple[int, int]:
    return len(sink.shown), sink.submitted


def _show(summary: Summary, as_json: bool) -> None:
    if as_json:
        print_out(summary_json(summary))
    else:
        from superinfer.lab.tables import summary_table

        print_table(summary_table(summary))
    for note in summary["notes"]:
        say(f"note: {note}")
    for warning in warnings_of(summary["run"]["run"], summary["trust"]):
        say(f"warning: {warning}")
