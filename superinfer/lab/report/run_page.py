"""The report of one run, section by section."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from superinfer.lab.metric_names import LATENCIES, Summary
from superinfer.lab.notices.trust import left_rows
from superinfer.lab.pictures.data import PlotData
from superinfer.lab.precision import shown_precision
from superinfer.lab.report import charts
from superinfer.lab.report.headline import headline, page_title
from superinfer.lab.report.html import (
    Content,
    Html,
    contents,
    folded,
    join,
    page,
    section,
    table,
    tag,
)
from superinfer.lab.report.hurt import endings
from superinfer.lab.report.hurt_section import hurt_parts
from superinfer.lab.report.values import (
    NONE,
    RUN_ROWS,
    STATISTICS,
    number,
    shown,
    targets,
)
from superinfer.lab.results import CONFIG, Run
from superinfer.settings import is_number

_KEY_FIGURES = {
    "slo_attainment": "SLO attainment",
    "p99_ttft_ms": "TTFT p99 (ms)",
    "p99_itl_ms": "ITL p99 (ms)",
    "p99_e2el_ms": "E2E p99 (ms)",
    "output_throughput": "output tokens/s",
    "request_goodput": "goodput (req/s)",
    "preemptions": "preemptions",
    "worst_stall_ms": "worst stall (ms)",
}
_TRUST_WORDS = {
    "measured_share": "step time within what was measured",
    "extrapolated_share": "step time beyond it",
    "family_error": "mean error of the worst kernel, at points held out",
    "host_overhead_origin": "host time of a step",
}
Section = tuple[str, str, list[Content]]


def run_page(run: Run) -> str:
    """The whole document of a stored run."""
    data = PlotData.of_run(run)
    sections = [found for found in _sections(run, data) if found[2]]
    links = contents([(name, title) for name, title, _ in sections])
    title = f"{page_title(run)}: report"
    body = [section(name, title, *parts) for name, title, parts in sections]
    return page(title, headline(run), links, tag("main", *body))


def _sections(run: Run, data: PlotData) -> Iterator[Section]:
    summary = data.summary
    yield "metrics", "Key metrics", _metrics(summary)
    yield "attainment", "SLO attainment", _attainment(data)
    yield "latency", "Latency", _latency(data)
    yield "load", "Queue and KV memory", _load(data)
    yield "traffic", "Preemptions and copies", _traffic(data)
    yield "replicas", "Replicas", _replicas(summary)
    yield "tenants", "Tenants", _tenants(summary)
    yield "hurt", "Who was hurt most", hurt_parts(data)
    yield "endings", "Requests that did not finish", _endings(data)
    yield "trust", "Where the times come from", _trust(summary)
    yield "config", "Settings", _config(run)


# -- sections -------------------------------------------------------------------------------------


def _metrics(summary: Summary) -> list[Content]:
    cards = [
        tag("div", tag("dt", name), tag("dd", shown(key, summary.get(key))))
        for key, name in _KEY_FIGURES.items()
        if key in summary
    ]
    tables = []
    for title, names in RUN_ROWS.items():
        rows = [(n, shown(k, summary[k])) for k, n in names.items() if summary.get(k) is not None]
        if rows:
            tables.append(table(title, ("metric", "value"), rows))
    counters = summary.get("counters") or {}
    if counters:
        rows = [(name, number(_whole(value))) for name, value in counters.items()]
        tables.append(table("Counters of the policies", ("counter", "value"), rows))
    ended = tag("p", _ended_words(summary)) if _ended_words(summary) else None
    notes = [tag("p", f"Note: {note}.") for note in summary.get("notes") or ()]
    columns = tag("div", *tables, class_="columns")
    unit = tag("p", f"{_bytes_unit(summary)}.", class_="note")
    return [tag("dl", *cards, class_="cards"), ended, *notes, columns, unit]


def _bytes_unit(summary: Summary) -> str:
    """Of what bytes are counted."""
    of = ", the sum of all replicas" if summary.get("replicas") else ""
    return f"Bytes are per GPU{of}"


def _whole(count: float | None) -> float | None:
    """A count as a whole number, where it is one."""
    return int(count) if count is not None and count % 1 == 0 else count


def _ended_words(summary: Summary) -> str:
    """How many requests the latencies leave out; empty for none."""
    kinds = ("rejected", "failed", "cancelled", "unfinished")
    found = {kind: summary.get(kind) or 0 for kind in kinds}
    if not any(found.values()):
        return ""
    counts = ", ".join(f"{number(n)} {kind}" for kind, n in found.items() if n)
    of = f"{number(sum(found.values()))} of {number(summary.get('submitted'))} requests"
    return f"{of} did not finish ({counts}). Latencies are those of the others."


def _attainment(data: PlotData) -> list[Content]:
    summary = data.summary
    if summary.get("slo_attainment") is None:
        return [tag("p", "No request has a service-level objective.")]
    columns = {
        "slo_attainment": "all targets",
        "ttft_attainment": "TTFT",
        "tpot_attainment": "TPOT",
        "paced_attainment": "paced",
        "request_goodput": "goodput (req/s)",
    }
    head, rows = ("class", "targets", "requests", *columns.values()), []
    for name, group in _groups(summary, "classes"):
        shared = group.get("slo") or {}
        slo = targets(shared) if any(shared.values()) or name != "all" else NONE
        cells = [shown(key, group.get(key)) for key in columns]
        rows.append((name, slo, number(group.get("submitted")), *cells))
    note = (
        "Of the requests submitted that have such a target; rejected and failed ones count as "
        "missed. Paced: every token came by its own deadline. Targets are those that a whole class "
        "shares."
    )
    return [
        charts.attainment(data),
        table("SLO attainment by class", head, rows, words=2),
        tag("p", note, class_="note"),
    ]


def _latency(data: PlotData) -> list[Content]:
    pictures = [charts.latency(data, key) for key in ("ttft", "itl", "e2el")]
    rows = [_quantiles(name, data.summary, key) for key, name in LATENCIES.items()]
    found = [
        tag("div", *pictures, class_="pictures"),
        table("Latency over all finished requests (ms)", ("", *STATISTICS.values()), rows),
        _longest(data.summary),
        *_precision(data.summary),
    ]
    groups = data.summary.get("classes") or {}
    if len(groups) > 1:
        rows = [
            _quantiles(f"{name}, {label}", group, key)
            for name, group in groups.items()
            for key, label in LATENCIES.items()
        ]
        by_class = table("Latency by class (ms)", ("class", *STATISTICS.values()), rows)
        found.append(folded("Latency by class", by_class))
    return [*found]


def _longest(summary: Summary) -> Html:
    """How long a client went without a token, at worst."""
    keys = ("worst_stall_ms", "worst_wait_ms")
    head = ("class", "between two tokens", "for any token, the first one included")
    return table("Longest times without a token (ms)", head, _rows(summary, "classes", keys))


def _precision(summary: Summary) -> list[Content]:
    """What part of the latency was paid for with bits of the cache, if any."""
    columns = shown_precision([summary])
    if not columns:
        return []
    note = (
        "Mean bits per value of the caches that decodes have read. Expected: against 16 bits, from "
        "the quality table of the profile; unmeasured where that has no figure."
    )
    rows, head = _rows(summary, "classes", columns), ("class", *columns.values())
    found = table("Precision of the KV cache", head, rows)
    return [found, tag("p", note, class_="note")]


def _quantiles(name: str, group: Summary, key: str) -> list[str]:
    return [name, *(number(group.get(f"{statistic}_{key}_ms")) for statistic in STATISTICS)]


def _load(data: PlotData) -> list[Content]:
    if not data.timeline["t_s"].size:
        return [tag("p", "The state of the replica was not sampled.")]
    return [*charts.load(data)]


def _traffic(data: PlotData) -> list[Content]:
    summary = data.summary
    head = ("class", "preemptions", "of them rotations", "host to device", "device to host")
    keys = ("preemptions", "rotations", "h2d_bytes", "d2h_bytes")
    seconds = summary.get("duration") or 0
    moved = {
        name: summary.get(key) or 0 for name, key in (("to", "h2d_bytes"), ("from", "d2h_bytes"))
    }
    rates = [
        f"{number(n / seconds / 1e9)} GB/s {way} the device" for way, n in moved.items() if seconds
    ]
    note = (
        "A preemption takes a request off the device; a rotation is one that copied its cache to "
        f"the host. {_bytes_unit(summary)}; write-through and cached blocks went for no single "
        "request, and are in the row of all alone. Mean over the measured time: "
        f"{', '.join(rates) or NONE}. "
        f"Recomputed: {shown('tax', summary.get('recompute_tax'))} of all computed tokens."
    )
    return [
        table("Preemptions and bytes over the links", head, _rows(summary, "classes", keys)),
        tag("p", note, class_="note"),
        *charts.traffic(data),
    ]


def _replicas(summary: Summary) -> list[Content]:
    columns = {
        "submitted": "requests",
        "slo_attainment": "SLO attainment",
        "p99_ttft_ms": "TTFT p99 (ms)",
        "output_throughput": "output tokens/s",
        "utilisation": "busy",
        "peak_kv_bytes": "peak KV",
        "prefix_hit_rate": "prefix hits",
        "preemptions": "preemptions",
    }
    rows = [
        (each["replica"], *(shown(key, each.get(key)) for key in columns))
        for each in summary.get("replicas") or ()
    ]
    note = (
        "Busy: share of the whole run in which a step was under way. The peak of the whole run is "
        "the sum of these peaks."
    )
    found = table("Metrics by replica", ("replica", *columns.values()), rows)
    return [found, tag("p", note, class_="note")] if rows else []


def _tenants(summary: Summary) -> list[Content]:
    if len(summary.get("tenants") or {}) < 2:
        return []
    columns = {
        "submitted": "requests",
        "slo_attainment": "SLO attainment",
        "p99_ttft_ms": "TTFT p99 (ms)",
        "p99_tpot_ms": "TPOT p99 (ms)",
        "p99_e2el_ms": "E2E p99 (ms)",
        "output_throughput": "output tokens/s",
        "worst_stall_ms": "worst stall (ms)",
        "worst_wait_ms": "worst wait (ms)",
        "preemptions": "preemptions",
        "rejected": "rejected",
    }
    jain, gap = (shown(key, summary.get(key)) for key in ("jain_index", "vtc_gap"))
    note = (
        f"Jain index of their shares: {jain}. Largest gap in service while two of them had "
        f"requests waiting (VTC): {gap} weighted tokens."
    )
    rows, head = _rows(summary, "tenants", columns), ("tenant", *columns.values())
    found = table("Metrics by tenant", head, rows)
    return [found, tag("p", note, class_="note")]


def _rows(summary: Summary, kind: str, keys: Iterable[str]) -> list[list[str]]:
    """The whole run and its groups, each with these metrics."""
    return [
        [name, *(shown(key, group.get(key)) for key in keys)]
        for name, group in _groups(summary, kind)
    ]


def _groups(summary: Summary, kind: str) -> list[tuple[str, Summary]]:
    """The whole run as `all`, then its groups where there are several."""
    groups = summary.get(kind) or {}
    return [("all", summary), *(groups.items() if len(groups) > 1 else ())]


def _endings(data: PlotData) -> list[Content]:
    rows = [(state, rule or NONE, name, number(n)) for state, rule, name, n in endings(data)]
    if not rows:
        return []
    head = ("end", "rule", "class", "requests")
    return [table("Requests that did not finish, by rule", head, rows, words=3)]


def _trust(summary: Summary) -> list[Content]:
    trust = summary.get("trust") or {}
    rows = []
    for key, value in trust.items():
        if key in ("left_range", "assumed"):
            continue
        written = NONE if value is None else shown(key, value) if is_number(value) else str(value)
        rows.append((_TRUST_WORDS.get(key, key.replace("_", " ")), written))
    head = ("what", "where from")
    found = [table("Origin of the step times", head, rows, words=2)] if rows else []
    if left := left_rows(trust):
        ranges = ("what", "measured up to", "run went to", "share of the step time")
        found.append(table("Outside the measured range", ranges, left))
    if assumed := list((trust.get("assumed") or {}).items()):
        head = ("kernel", "stands in")
        found.append(table("Shapes that were not measured", head, assumed, words=2))
    return [*found]


def _config(run: Run) -> list[Content]:
    path = run.folder / CONFIG
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    versions = (run.summary.get("run") or {}).get("versions") or {}
    found = [f"{name} {version}" for name, version in versions.items()]
    code = tag("pre", tag("code", join(*lines, by="\n")))
    return [folded("All settings, resolved", code), tag("p", ", ".join(found), class_="note")]
