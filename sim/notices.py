"""What a user is told of a simulation apart from its files: warnings and notes on standard error,
and the summary on standard output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from numpy import isfinite

from sim.cut_answers import context_of, cut_answers
from sim.model_warnings import model_warnings
from sim.too_many_blocks import too_many_blocks
from superinfer.lab.cli.terminal import say
from superinfer.lab.config import Config
from superinfer.lab.config.released import without_release
from superinfer.lab.config.run import RunConfig
from superinfer.lab.notices.hybrids import hybrid_note
from superinfer.lab.notices.idle_settings import idle_settings
from superinfer.lab.notices.idle_window import window_warning
from superinfer.lab.notices.overload import overload_warning
from superinfer.lab.notices.trust import warnings_of
from superinfer.lab.notices.unused_fields import fields_of
from superinfer.lab.results import summary_json
from superinfer.metrics import RunMetrics
from superinfer.metrics.summary import Summary
from superinfer.records.run import Floats
from superinfer.request import DEFAULT_CLASS, Request
from superinfer.settings import did_you_mean
from superinfer.slo_classes import PRESETS
from traces.printing import print_out, print_table
from traces.workload import Workload

Points = Mapping[tuple[str, str], Config]
"""By the name of an arm and, of a sweep, where on its axes it is; else empty."""
FAR = 10.0
"""Times its target that the quickest request of a class took: as of seconds given as ms."""
MOST_NAMED = 14
"""Arms that a line names: all schedulers that come with us."""


def warn_of_notes(config: Config) -> None:
    """Say how the parts of a configuration were put together, where a user should know."""
    for note in config.notes:
        say(f"warning: {note}")


def say_of_parts(points: Points) -> None:
    """What needs no trace: a router where there is nothing to choose from, what is left out of a
    model, more memory than there is, and pairs of policies. The engines of all points can be built.

    Where replicas are varied, one replica is but the first of several numbers.
    """
    if all(config.run.replicas == 1 for config in points.values()):
        _say_of_whom("warning", {key: _unused_router(config) for key, config in points.items()})
    warn_of_models(points)
    warn_of_blocks(points)
    say_of_pairs(points)


def warn_of_models(points: Points) -> None:
    """Say what a model has that is not simulated, and where more is asked of it than it has."""
    _say_of_whom("warning", {key: model_warnings(config) for key, config in points.items()})


def warn_of_blocks(points: Points) -> None:
    """Say where a configuration has more KV blocks than its device has memory for."""
    _say_of_whom("warning", {key: too_many_blocks(config) for key, config in points.items()})


def say_of_pairs(points: Points) -> None:
    """Say where the memory policy is not one that belongs to the scheduler."""
    _say_of_whom("note", {key: [hybrid_note(config)] for key, config in points.items()})


def _unused_router(config: Config) -> list[str]:
    if config.router:
        return ["[router]: not used with one replica"]
    if config.run.router != RunConfig().router:
        return [f"run.router: {config.run.router} is not used with one replica"]
    return []


def say_of_workload(config: Config, workload: Workload) -> None:
    """What is odd about a workload."""
    for warning in workload.warnings:
        say(f"warning: {warning}")
    if workload.skipped:
        say(f"warning: {config.run.trace}: {workload.skipped_note}")


def say_of_points(points: Points, workload: Workload, varied: Collection[str] = ()) -> None:
    """Settings that the requests make idle, answers that are longer than the context, what requests
    say and a configuration does not go by, and releases that are not known; of several
    configurations, of which. Classes of `varied` settings are left to `warn_of_absent_classes`.
    """
    fields, requests = fields_of(workload.requests), workload.requests
    idle = {key: idle_settings(config, requests) for key, config in points.items()}
    _say_of_whom("warning", idle)
    _warn_of_cut_answers(points, workload)
    ours = {
        DEFAULT_CLASS.name,
        *(key.split(".")[1] for key in varied if key.startswith("classes.")),
    }
    unused = {
        key: [
            *without_release(config.run),
            *fields.unused(config),
            *_classes_of_nobody(set(config.classes) - ours, requests),
        ]
        for key, config in points.items()
    }
    _say_of_whom("note", unused)


def _warn_of_cut_answers(points: Points, workload: Workload) -> None:
    contexts = {key: context_of(config) for key, config in points.items()}
    cut = {tokens: cut_answers(tokens, workload) for tokens in set(contexts.values())}
    _say_of_whom("warning", {key: cut[tokens] for key, tokens in contexts.items()})


def _classes_of_nobody(names: Collection[str], requests: Sequence[Request]) -> list[str]:
    """That classes which a configuration sets up are those of no request: a name may be misspelt.
    One that differs by capitals alone is warned of (`idle_settings`).
    """
    there = sorted({request.slo_class.name for request in requests})
    alike = {name.casefold() for name in there}
    absent = sorted(name for name in names if name.casefold() not in alike)
    if not absent or not there:
        return []
    hint = did_you_mean(absent[0], there)
    known = ", ".join(there)
    return [f"no request is of class {', '.join(absent)}{hint}; the classes here are {known}"]


def as_point(config: Config) -> Points:
    """A configuration that is the only one."""
    return as_points({config.run.scheduler: config})


def as_points(arms: Mapping[str, Config]) -> Points:
    """Arms that run once each."""
    return {(name, ""): config for name, config in arms.items()}


def _say_of_whom(kind: str, lines: Mapping[tuple[str, str], Iterable[str]]) -> None:
    """Each line once, with the arms or the points that it is about, unless it is about all."""
    whose: dict[str, list[tuple[str, str]]] = {}
    for key, told in lines.items():
        for line in filter(None, told):
            whose.setdefault(line, []).append(key)
    for line, keys in whose.items():
        say(f"{kind}: {_whom(keys, lines.keys())}{line}")


def _whom(keys: Collection[tuple[str, str]], known: Collection[tuple[str, str]]) -> str:
    """Such as `arm vllm: `; an arm stands for all of its points. Empty for all that are known."""
    if len(keys) == len(known):
        return ""
    names: list[str] = []
    for arm in dict.fromkeys(arm for arm, _ in keys):
        here = [at for name, at in keys if name == arm]
        whole = len(here) == sum(name == arm for name, _ in known)
        names += [arm] if whole else [f"{arm} at {at}" for at in here]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"arm{'s' * (len(names) > 1)} {', '.join(names[:MOST_NAMED])}{more}: "


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


def _open_ends(summary: Summary) -> list[str]:
    """Who had not finished when a run was cut off, and who had not come by then."""
    asked, submitted, open_ends = summary["run"], summary["submitted"], summary["unfinished"]
    late = 0 if asked["run"]["window_s"] else asked["requests"] - submitted
    told = [f"{open_ends:,} of {submitted:,} requests had not finished"] if open_ends else []
    return [*told, *([f"{late:,} of {asked['requests']:,} had not been sent"] if late else [])]


def say_of_letters(*summaries: Summary, arms: Iterable[str] = ()) -> None:
    """Say whose names the pictures that were drawn of these runs cannot show."""
    from superinfer.lab.pictures.fonts import letters_note

    if note := letters_note(*summaries, arms=arms):
        say(f"note: {note}")


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
