"""What a configuration asks for and changes nothing with the requests at hand, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from superinfer.lab.config import Config
from superinfer.request import Request


def idle_settings(config: Config, requests: Sequence[Request]) -> list[str]:
    """One line per such setting, for a warning: classes whose names differ from those of the
    requests by capitals alone, prefix caching without hash ids, times that answers set, closed
    sessions whose requests are sent one by one.
    """
    run = config.run
    found = list(_lookalikes(config.classes, requests))
    if run.prefix_caching and not any(request.hash_ids for request in requests):
        found.append("run.prefix_caching: no request has hash_ids, so no prompts begin alike")
    if run.concurrency:
        times = {"rate_scale": run.rate_scale, "burstiness": run.burstiness}
        unused = [f"run.{key}: not used with run.concurrency" for key in times if times[key] != 1]
        found += [f"{line}, where answers set the pace" for line in unused]
    if run.sessions == "closed":
        found += _torn_sessions({*run.backlog, *run.in_flight}, requests)
    return found


def _torn_sessions(pools: Iterable[str], requests: Sequence[Request]) -> Iterator[str]:
    """Classes with a backlog or a loop of their own, whose turns wait for no other turn."""
    turns = {request.slo_class.name for request in requests if request.delay_s is not None}
    for name in sorted(turns.intersection(pools)):
        sent = "run.backlog or run.in_flight sends its turns without waiting for one another"
        yield f"run.sessions: not used with class {name}: {sent}"


def _lookalikes(classes: Iterable[str], requests: Sequence[Request]) -> Iterator[str]:
    """Classes of the configuration that no request is of, but for capitals one is."""
    there = {request.slo_class.name for request in requests}
    meant = {name.casefold(): name for name in there}
    for name in sorted(set(classes) - there):
        if near := meant.get(name.casefold()):
            yield f"classes.{name}: no request is of class {name} (did you mean {near!r}?)"
