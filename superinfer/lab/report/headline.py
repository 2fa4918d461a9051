"""The head of a report: what was run, how it was loaded, and where its step times come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from superinfer.lab.metric_names import Summary
from superinfer.lab.notices.hybrids import pair_words
from superinfer.lab.notices.trust import percent
from superinfer.lab.pictures.data import run_title
from superinfer.lab.report.html import Html, tag
from superinfer.lab.report.values import number, shown
from superinfer.lab.results import Run


def page_title(run: Run) -> str:
    """What was run on what; not the folder, which may be moved or belong to a study."""
    return run_title(run.summary) or "Run"


def headline(run: Run) -> Html:
    """What was run, on what, by which version, and how far the figures can be trusted."""
    settings = run.summary.get("run") or {}
    what = settings.get("run") or {}
    facts = {
        "Trace": what.get("trace"),
        "Scheduler": what.get("scheduler"),
        "Memory policy": _memory_words(run.summary, what),
        "Model": what.get("model"),
        "Device": f"{what.get('device', 'unknown')}, tensor parallel {what.get('tp', 1)}",
        "Replicas": _replica_words(what),
        "Load": load_words(run.summary),
        "Seed": what.get("seed"),
        "Version": (settings.get("versions") or {}).get("superinfer"),
    }
    if "replicas" not in what:
        del facts["Replicas"]
    items = [
        tag("div", tag("dt", k), tag("dd", "unknown" if v is None else v)) for k, v in facts.items()
    ]
    return tag(
        "header",
        tag("h1", page_title(run)),
        tag("p", origin(settings), " Step times: ", trust_words(run.summary), "."),
        tag("dl", *items, class_="facts"),
    )


def origin(settings: Mapping[str, Any]) -> Html:
    """Whether a run was simulated or measured."""
    simulated = settings.get("simulated")
    words = "unknown origin" if simulated is None else "simulated" if simulated else "measured"
    return tag("strong", words, class_="origin")


def load_words(summary: Summary) -> str:
    """How the workload was sent, and what part of the run is measured."""
    load = summary.get("load") or {}
    words = [str(load.get("model") or "open loop")]
    if load.get("concurrency"):
        words.append(f"{load['concurrency']:,} under way")
    if load.get("sessions") == "closed":
        words.append("closed sessions")
    words += [f"backlog of {n:,} {name}" for name, n in (load.get("backlog") or {}).items()]
    words += [f"{n:,} {name} under way" for name, n in (load.get("in_flight") or {}).items()]
    if load.get("duration_s"):
        words.append(f"cut off at {number(load['duration_s'])} s")
    if load.get("window_s"):
        start_s, end_s = load["window_s"]
        words.append(f"measured from {number(start_s)} to {number(end_s)} s")
    return ", ".join(words)


def trust_words(summary: Summary) -> str:
    """One line on the step times: profile, error, extrapolation and host overhead."""
    trust = summary.get("trust") or {}
    if not trust:
        return "of unknown origin"
    words = [str(trust.get("profile") or "unknown profile")]
    if trust.get("family_error") is not None:
        words.append(f"{shown('error', trust['family_error'])} mean error of its worst kernel")
    if trust.get("extrapolated_share") is not None:
        words.append(f"{percent(trust['extrapolated_share'])} of the step time extrapolated")
    if trust.get("assumed"):
        words.append(f"{', '.join(trust['assumed'])} of a shape that was not measured")
    words.append(f"host overhead {trust.get('host_overhead_origin') or 'of unknown origin'}")
    return "; ".join(words)


# -- inside ---------------------------------------------------------------------------------------


def _memory_words(summary: Summary, what: Mapping[str, Any]) -> Any:
    """The memory policy; of a hybrid also what belongs to the scheduler."""
    if not pair_words(summary):
        return what.get("memory")
    own = " or ".join(summary["run"].get("own_memory") or ("another",))
    return f"{what.get('memory')}, which makes it a hybrid: {what.get('scheduler')} has {own}"


def _replica_words(what: Mapping[str, Any]) -> str:
    return f"{what.get('replicas')}, router {what.get('router')}"
