"""What a user is told of a simulation apart from its files: warnings and notes on standard error,
and the summary on standard output.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping

from superinfer.lab.config import Config
from superinfer.lab.config.released import without_release
from superinfer.lab.config.run import RunConfig
from superinfer.lab.hybrids import hybrid_note
from superinfer.lab.idle_settings import idle_settings
from superinfer.lab.overload import overload_warning
from superinfer.lab.results import summary_json
from superinfer.lab.trust import warnings_of
from superinfer.lab.unused_fields import unused_fields
from superinfer.metrics import RunMetrics
from superinfer.metrics.summary import Summary
from superinfer.request import DEFAULT_CLASS
from superinfer.slo_classes import PRESETS
from traces.cli import print_out, print_table
from traces.workload import Workload


def say(text: str) -> None:
    """A line for the user, apart from the result."""
    print(text, file=sys.stderr)


def warn_of_notes(config: Config) -> None:
    """Say how the parts of a configuration were put together, where a user should know."""
    for note in config.notes:
        say(f"warning: {note}")


def say_of_pair(config: Config, arm: str = "") -> None:
    """Say that the memory policy is not one that belongs to the scheduler."""
    if note := hybrid_note(config):
        say(f"note: {arm and f'arm {arm}: '}{note}")


def warn_of_an_unused_router(config: Config) -> None:
    """Say that a router is set where there is nothing to choose from."""
    if config.run.replicas == 1:
        if config.router:
            say("warning: [router]: not used with one replica")
        elif config.run.router != RunConfig().router:
            say(f"warning: run.router: {config.run.router} is not used with one replica")


def say_of_workload(config: Config, workload: Workload) -> None:
    """What is odd about a workload, and about settings that it makes idle."""
    for warning in (*workload.warnings, *idle_settings(config, workload.requests)):
        say(f"warning: {warning}")
    if workload.skipped:
        say(f"warning: {config.run.trace}: {workload.skipped_note}")


def say_of_arms(arms: Mapping[str, Config], workload: Workload) -> None:
    """What the requests say and a configuration does not go by, and releases that are not known;
    of several configurations, of which.
    """
    whose: dict[str, list[str]] = {}
    for name, config in arms.items():
        for note in (*without_release(config.run), *unused_fields(config, workload.requests)):
            whose.setdefault(note, []).append(name)
    for note, names in whose.items():
        named = f"arm{'s' * (len(names) > 1)} {', '.join(names)}: "
        say(f"note: {named * (len(names) < len(arms))}{note}")


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


def show_summary(summary: Summary, as_json: bool) -> None:
    """The result on standard output, and beside it what it says of itself."""
    if as_json:
        print_out(summary_json(summary))
    else:
        from superinfer.lab.tables import summary_table

        print_table(summary_table(summary))
    for note in summary["notes"]:
        say(f"note: {note}")
    for warning in warnings_of(summary["run"]["run"], summary["trust"]):
        say(f"warning: {warning}")


def say_of_run(config: Config, metrics: RunMetrics, summary: Summary) -> None:
    """What a reader of the summary should know beside it."""
    say_without_targets(summary)
    _say_who_was_not_served(metrics)
    _say_if_nobody_was_measured(config, summary)
    view = metrics.view
    if warning := overload_warning(summary["load"], view.arrival_s, view.ttft_s):
        say(f"warning: {warning}")


def say_without_targets(*summaries: Summary) -> None:
    """Say why nothing is shown of targets, where requests were judged and none of them has one,
    unless that is what was asked for.
    """
    if all(each["run"]["run"]["without_slo"] for each in summaries):
        return
    if all(each["submitted"] and each["slo_attainment"] is None for each in summaries):
        say("note: no request has a target: --classes gives some (docs/bring-a-trace.md)")


def _say_who_was_not_served(metrics: RunMetrics) -> None:
    """The rules by which requests were turned away or failed, with how many."""
    rules = Counter(rule for rule in metrics.record.table.reject_reason if rule)
    if rules:
        told = ", ".join(f"{rule} {count:,}" for rule, count in rules.most_common())
        say(f"note: requests that were turned away or failed, by rule: {told}")


def _say_if_nobody_was_measured(config: Config, summary: Summary) -> None:
    if config.run.window_s and not summary["submitted"]:
        start_s, end_s = config.run.window_s
        say(f"warning: no request arrives from {start_s:g} to {end_s:g} s (run.window_s)")
