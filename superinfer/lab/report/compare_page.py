"""The report of several runs of one trace, the first of which is the reference."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from superinfer.errors import ConfigError
from superinfer.lab.changes import change
from superinfer.lab.metric_names import Summary
from superinfer.lab.notices.hybrids import footnote, marked
from superinfer.lab.numbers import column_of, number
from superinfer.lab.pictures.data import MOST_CLASSES, PlotData
from superinfer.lab.precision import shown_precision
from superinfer.lab.report import REPORT_HTML, charts
from superinfer.lab.report.compare_hurt import compared_hurt_parts
from superinfer.lab.report.headline import load_words, origin, trust_words
from superinfer.lab.report.html import Content, Html, contents, page, section, table, tag
from superinfer.lab.report.run_page import Section
from superinfer.lab.report.values import (
    COMPARE_ROWS,
    GROUP_ROWS,
    NONE,
    change_words,
    shown,
)
from superinfer.lab.results import Run
from superinfer.lab.studies.differences import Difference
from superinfer.lab.studies.intervals import Interval

Runs = Sequence[tuple[str, Run]]
Known = Mapping[tuple[str, str], Difference]
"""Differences that were given, by run and metric."""

_PLAIN = ("submitted", "kv_perplexity_change", "kv_kl")
"""Neither better nor worse: counted, or a difference already."""


def compare_page(runs: Runs, path: Path, differences: Iterable[Difference]) -> str:
    """The whole document; `path` is where it will lie, so that it can point to single reports."""
    known = {(found.arm, found.metric): found for found in differences}
    _check(runs, known)
    data = {name: PlotData.of_run(run) for name, run in runs}
    sections = [found for found in _sections(runs, data, known) if found[2]]
    links = contents([(name, title) for name, title, _ in sections])
    title = "Comparison: " + ", ".join(data)
    body = [section(name, heading, *parts) for name, heading, parts in sections]
    return page(title, _headline(runs, data, path, known), links, tag("main", *body))


def _check(runs: Runs, known: Known) -> None:
    names = Counter(name for name, _ in runs)
    if len(runs) < 2:
        raise ConfigError(f"compare report: expected two or more runs, got {len(runs)}")
    for name, times in names.items():
        if times > 1:
            raise ConfigError(f"compare report: expected different names, got {name!r} twice")
    for name, _ in known:
        if name not in names:
            expected = ", ".join(names)
            raise ConfigError(f"compare report: expected differences of {expected}, got {name!r}")


def _sections(runs: Runs, data: Mapping[str, PlotData], known: Known) -> Iterator[Section]:
    classes = _classes(data)
    yield "metrics", "Metrics", _metrics(data, known)
    first = _first_seed_note(known)
    yield "attainment", "SLO attainment", _attainment(data, classes, known)
    yield "latency", "Latency by class", [*first, *_latency(data, classes)]
    yield "classes", "Classes", _groups(data, "classes", known)
    yield "tenants", "Tenants", _groups(data, "tenants", known)
    yield "load", "Queue and KV memory", [*first, *_load(data)]
    hurt = compared_hurt_parts(data)
    yield "hurt", "Who was hurt most", [*first, *hurt] if hurt else []
    yield "config", "Settings that differ", _settings(runs)


def _headline(runs: Runs, data: Mapping[str, PlotData], path: Path, known: Known) -> Html:
    names = list(data)
    head = ("run", "scheduler", "model", "device", "load", "origin", "step times")
    rows = []
    for name, run in runs:
        settings = run.summary.get("run") or {}
        what = settings.get("run") or {}
        device = f"{what.get('device', 'unknown')}, TP {what.get('tp', 1)}"
        found = [what.get("scheduler"), what.get("model"), device, load_words(run.summary)]
        about = (origin(settings), tag("div", trust_words(run.summary), class_="long"))
        rows.append((_link(name, run, path), *found, *about))
    hybrids = footnote(run.summary for _, run in runs)
    return tag(
        "header",
        tag("h1", "Comparison of runs"),
        tag("p", *_trace_words(runs, data, _seeds(known)), f" Reference: {names[0]}."),
        table("Runs", head, rows, words=len(head)),
        tag("p", hybrids, class_="note") if hybrids else None,
    )


def _link(name: str, run: Run, path: Path) -> Content:
    """The name, as a link to the run's own report where there is one."""
    report, shown_name = run.folder / REPORT_HTML, marked(name, run.summary)
    if not report.exists():
        return shown_name
    where = os.path.relpath(report.resolve(), path.resolve().parent)
    return tag("a", shown_name, href=Path(where).as_posix())


def _trace_words(runs: Runs, data: Mapping[str, PlotData], seeds: int) -> Iterator[Content]:
    """Which trace, and a warning where the runs cannot be of the same one."""
    traces = {str((((r.summary.get("run") or {}).get("run")) or {}).get("trace")) for _, r in runs}
    counts = {int(found.requests["arrival_s"].size) for found in data.values()}
    submitted = " or ".join(f"{count:,}" for count in sorted(counts))
    yield f"Trace: {', '.join(sorted(traces))}; {submitted} requests"
    yield f" with the first of {seeds} seeds." if seeds > 1 else "."
    if len(traces) > 1 or len(counts) > 1:
        yield " "
        yield tag("strong", "The runs are not of the same trace: differences mean little.")


def _metrics(data: Mapping[str, PlotData], known: Known) -> list[Content]:
    summaries = {name: found.summary for name, found in data.items()}
    rows: list[list[Content]] = []
    for key, name in (*COMPARE_ROWS.items(), *shown_precision(summaries.values()).items()):
        cells = _cells(key, key, summaries, known)
        if any(cell != NONE for cell in cells):
            rows.append([name, *cells])
    caption = f"Metrics, and differences from {next(iter(data))}"
    names = (marked(name, summary) for name, summary in summaries.items())
    found = table(caption, ("metric", *names), rows)
    return [found, tag("p", _metrics_note(known), class_="note")]


def _metrics_note(known: Known) -> str:
    note = (
        "Below each value its difference from the reference, in percentage points for shares and "
        "in per cent of the reference otherwise; better and worse say which way it goes. Bytes are "
        "per GPU, of several replicas the sum."
    )
    note += _intervals_note(known)
    if _seeds(known) > 1:
        note += (
            f" Values are means over {_seeds(known)} seeds; those of which no difference over "
            "seeds was given are of the first."
        )
    return note


def _intervals_note(known: Known) -> str:
    """What bounds a difference, and what is called unclear; empty where neither occurs."""
    rare = "fewer than ten requests lie beyond a quantile, so the difference may be chance"
    intervals = [found.interval for found in known.values() if found.interval]
    if not intervals:
        return f" Unclear: {rare}." if any(found.few for found in known.values()) else ""
    methods = sorted({f"{100 * bounds.level:g} %, {bounds.method}" for bounds in intervals})
    return (
        f" In brackets the confidence interval of the difference ({'; '.join(methods)}), with "
        '"to" in the metric\'s own unit where it goes below -100 %; unclear: it holds zero, or '
        f"{rare}. Without brackets there is no interval, and it may be chance as well."
    )


def _seeds(known: Known) -> int:
    return max((len(found.by_seed) for found in known.values()), default=0)


def _first_seed_note(known: Known) -> list[Content]:
    """A word on what one run stands for, where there are several seeds."""
    if _seeds(known) < 2:
        return []
    return [tag("p", f"Of the first of {_seeds(known)} seeds.", class_="note")]


def _cells(key: str, metric: str, groups: Mapping[str, Summary], known: Known) -> list[Content]:
    """The values of one metric across runs, each but the first with its difference."""
    reference, *others = groups
    given = [known[run, metric] for run in others if (run, metric) in known]
    base = groups[reference].get(key)
    if given and not isinstance(base, str):  # a word stands where a number is unknown
        base = given[0].reference_value
    cells: list[Content] = [shown(key, base)]
    for run in others:
        found = known.get((run, metric))
        value = groups[run].get(key)
        if found and not isinstance(value, str):
            value = found.value
        told = (found.interval, found.few) if found else (None, False)
        cells.append(_cell(key, value, base, *told))
    return cells


def _cell(key: str, value: Any, base: Any, interval: Interval | None, few: bool) -> Content:
    found = change(key, value, base, interval, few) if key not in _PLAIN else None
    if found is None:
        return shown(key, value)
    words = change_words(found)
    words = words if found.verdict == "same" else f"{words} {found.verdict}"
    return tag("div", shown(key, value), tag("span", words, class_="verdict"), class_=found.verdict)


def _classes(data: Mapping[str, PlotData]) -> list[str]:
    """The classes that all pictures show: the largest of the reference."""
    return next(iter(data.values())).classes()[:MOST_CLASSES]


def _attainment(
    data: Mapping[str, PlotData], classes: Sequence[str], known: Known
) -> list[Content]:
    if all(found.summary.get("slo_attainment") is None for found in data.values()):
        return [tag("p", "No request has a service-level objective.")]
    reference = next(iter(data))
    means: dict[tuple[str, str], float | None] = {}
    for (run, metric), found in known.items():
        means |= {(run, metric): found.value, (reference, metric): found.reference_value}

    def share(run: str, metric: str) -> float | None:
        plain = number(data[run].summary, metric)
        return means.get((run, metric), plain)

    return [charts.compared_attainment(list(data), classes, share)]


def _latency(data: Mapping[str, PlotData], classes: Sequence[str]) -> list[Content]:
    found: list[Content] = []
    for number_, name in enumerate(classes):
        pictures = [
            charts.compared_latency(data, name, key, f"cdf-{number_}-{key}")
            for key in ("ttft", "itl", "e2el")
        ]
        found += [tag("h3", name), tag("div", *pictures, class_="pictures")]
    return found


def _groups(data: Mapping[str, PlotData], kind: str, known: Known) -> list[Content]:
    """The metrics of each class or tenant, a row per run."""
    names = sorted({name for found in data.values() for name in found.summary.get(kind) or {}})
    if len(names) < 2:
        return []
    shown_rows = {**GROUP_ROWS, **shown_precision(found.summary for found in data.values())}
    rows: list[list[Content]] = []
    for name in names:
        groups = {run: (f.summary.get(kind) or {}).get(name) or {} for run, f in data.items()}
        columns = [_cells(key, f"{kind}.{name}.{key}", groups, known) for key in shown_rows]
        rows += [[name, run, *cells] for run, *cells in zip(data, *columns, strict=True)]
    one = column_of(kind)
    return [table(f"Metrics by {one} and run", (one, "run", *shown_rows.values()), rows, words=2)]


def _load(data: Mapping[str, PlotData]) -> list[Content]:
    if not any(found.timeline["t_s"].size for found in data.values()):
        return [tag("p", "The state of the replicas was not sampled.")]
    return [*charts.compared_load(data)]


def _settings(runs: Runs) -> list[Content]:
    flat = {name: dict(_flat(run.config)) for name, run in runs}
    keys = sorted({key for settings in flat.values() for key in settings})
    rows = [
        (key, *(settings.get(key, NONE) for settings in flat.values()))
        for key in keys
        if len({settings.get(key) for settings in flat.values()}) > 1
    ]
    if not rows:
        return [tag("p", "The runs have the same settings.")]
    return [table("Settings that differ", ("setting", *flat), rows, words=len(flat) + 1)]


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", str(value)
