"""What is said of configurations and their workload before anything runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from sim.notices.cut_answers import context_of, cut_answers
from sim.notices.model_warnings import model_warnings
from sim.notices.too_many_blocks import too_many_blocks
from superinfer.lab.cli.terminal import say
from superinfer.lab.config import Config
from superinfer.lab.config.released import without_release
from superinfer.lab.config.run import RunConfig
from superinfer.lab.notices.hybrids import hybrid_note
from superinfer.lab.notices.idle_settings import idle_settings
from superinfer.lab.notices.unused_fields import fields_of
from superinfer.request import DEFAULT_CLASS, Request
from superinfer.settings import did_you_mean
from superinfer.slo_classes import PRESETS
from traces.workload import Workload

Points = Mapping[tuple[str, str], Config]
"""By the name of an arm and, of a sweep, where on its axes it is; else empty."""
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


def as_point(config: Config) -> Points:
    """A configuration that is the only one."""
    return as_points({config.run.scheduler: config})


def as_points(arms: Mapping[str, Config]) -> Points:
    """Arms that run once each."""
    return {(name, ""): config for name, config in arms.items()}


# -- inside ---------------------------------------------------------------------------------------


def _unused_router(config: Config) -> list[str]:
    if config.router:
        return ["[router]: not used with one replica"]
    if config.run.router != RunConfig().router:
        return [f"run.router: {config.run.router} is not used with one replica"]
    return []


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
