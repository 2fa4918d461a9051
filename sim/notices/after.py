"""What is said of runs that are done: the summary on standard output, and what goes with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from numpy import isfinite

from superinfer.lab.cli.terminal import say
from superinfer.lab.config import Config
from superinfer.lab.notices.idle_window import window_warning
from superinfer.lab.notices.overload import overload_warning
from superinfer.lab.notices.trust import warnings_of
from superinfer.lab.results import summary_json
from superinfer.metrics import RunMetrics
from superinfer.metrics.summary import Summary
from superinfer.records.run import Floats
from traces.printing import print_out, print_table

FAR = 10.0
"""Times its target that the quickest request of a class took: as of seconds given as ms."""


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
    say_of_cut(summary)
    _say_of_targets_out_of_reach(metrics, summary)
    _say_if_nobody_was_measured(config, summary)
    view = metrics.view
    overload = overload_warning(summary["load"], view.arrival_s, view.ttft_s)
    for warning in filter(None, (overload, window_warning(config.run.window_s, view.arrival_s))):
        say(f"warning: {warning}")


def say_without_targets(*summaries: Summary) -> None:
    """Say why nothing is shown of targets, where requests were judged and none of them has one,
    unless that is what was asked for.
    """
    if all(each["run"]["run"]["without_slo"] for each in summaries):
        return
    if all(each["submitted"] and each["slo_attainment"] is None for each in summaries):
        say("note: no request has a target: --classes gives some (docs/bring-a-trace.md)")


def say_of_cut(*summaries: Summary) -> None:
    """Say what a cut-off left open; of several runs without the counts, which their table has."""
    first = summaries[0]["run"]["run"]
    place = f"note: cut off at {first['duration_s']:g} s (run.duration_s)"
    told = _open_ends(summaries[0]) if len(summaries) == 1 else []
    if any(each["unfinished"] for each in summaries):
        told.append("the unfinished are in no latency, and with a target count as missed")
    if first["duration_s"] and told:
        say(f"{place}: {'; '.join(told)}")


def say_of_letters(*summaries: Summary, arms: Iterable[str] = ()) -> None:
    """Say whose names the pictures that were drawn of these runs cannot show."""
    from superinfer.lab.pictures.fonts import letters_note

    if note := letters_note(*summaries, arms=arms):
        say(f"note: {note}")


# -- inside ---------------------------------------------------------------------------------------


def _open_ends(summary: Summary) -> list[str]:
    """Who had not finished when a run was cut off, and who had not come by then."""
    asked, submitted, open_ends = summary["run"], summary["submitted"], summary["unfinished"]
    late = 0 if asked["run"]["window_s"] else asked["requests"] - submitted
    told = [f"{open_ends:,} of {submitted:,} requests had not finished"] if open_ends else []
    return [*told, *([f"{late:,} of {asked['requests']:,} had not been sent"] if late else [])]


def _say_who_was_not_served(metrics: RunMetrics) -> None:
    """The rules by which requests were turned away or failed, with how many."""
    rules = Counter(rule for rule in metrics.record.table.reject_reason if rule)
    if rules:
        told = ", ".join(f"{rule} {count:,}" for rule, count in rules.most_common())
        say(f"note: requests that were turned away or failed, by rule: {told}")


def _say_of_targets_out_of_reach(metrics: RunMetrics, summary: Summary) -> None:
    """Name targets that are far below what the quickest request of their class took."""
    view = metrics.view
    taken_s = {"ttft_ms": view.ttft_s, "tpot_ms": view.tpot_s, "e2el_ms": view.e2el_s}
    for name, rows in metrics.class_rows().items():
        finished = rows[view.finished[rows]]
        targets = summary["classes"][name]["slo"] or {}
        for key, times_s in taken_s.items():
            target, quickest_ms = targets.get(key), _shortest_ms(times_s[finished])
            if target and quickest_ms > FAR * target:
                missed = f"{key} of {target:g}: the quickest request took {quickest_ms:,.4g} ms"
                say(f"warning: class {name} is far from its {missed}")


def _shortest_ms(times_s: Floats) -> float:
    """The shortest of times, of which those that there are not are NaN; 0 where there is none."""
    known_s = times_s[isfinite(times_s)]
    return 1000 * float(known_s.min()) if known_s.size else 0.0


def _say_if_nobody_was_measured(config: Config, summary: Summary) -> None:
    if config.run.window_s and not summary["submitted"]:
        start_s, end_s = config.run.window_s
        say(f"warning: no request arrives from {start_s:g} to {end_s:g} s (run.window_s)")
