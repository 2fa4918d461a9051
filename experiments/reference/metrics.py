"""`docs/reference-metrics.md`: every number of `summary.json` with unit and formula."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from superinfer.metrics.meanings import BLOCKS, GROUP, LATENCIES, REPLICA, RUN, Meaning
from superinfer.metrics.statistics import STATISTICS
from superinfer.metrics.summary import REPLICA_KEYS

_HEAD = """\
# Metrics

Every key of `summary.json`, by the names of `vllm bench serve` where there is one. A run without
what a number is about has null there. Latencies, token totals and `completed` are over finished
requests; rates divide by the `duration` of the whole run, so the rates of all classes add up. With
`run.window_s` counts, latencies, attainment and goodput are of the requests that arrived inside,
tokens and the other rates of what came inside. Files beside it, and what counts as meeting an SLO:
[formats](formats.md#a-result-folder). Between tenants:
[fairness](fairness.md#reading-the-metrics). This page is made by
`python -m experiments.reference`."""
_SPREAD = {
    "mean": "mean",
    "median": "50 % quantile",
    "std": "standard deviation (of the population)",
    "p90": "90 % quantile, linear between neighbours",
    "p95": "95 %",
    "p99": "99 %",
    "p999": "99.9 %",
}


def page() -> str:
    """The whole page."""
    lines = [_HEAD, "", "## Latencies", ""]
    shown = ", ".join(f"`{name}` ({_SPREAD[name]})" for name in STATISTICS)
    lines += [f"In ms, each as {shown}: `p99_ttft_ms` is the 99 % quantile of TTFT.", ""]
    lines += ["| in the key | what |", "|---|---|"]
    lines += [f"| `{name}` | {formula} |" for name, formula in LATENCIES.items()]
    lines += ["", "## Of the run, a class or a tenant", "", *_rows(GROUP)]
    lines += ["", "## Of the run", "", *_rows(RUN)]
    named = ", ".join(f"`{key}`" for key in REPLICA_KEYS)
    lines += ["", "## Of a replica", "", f"In `replicas`, beside {named}, `prefix_hit_rate`,"]
    lines += ["`peak_kv_bytes`, `peak_slab_bytes` and `steps`:", "", *_rows(REPLICA)]
    lines += ["", "## What else is in the file", "", "| key | what |", "|---|---|"]
    lines += [f"| `{key}` | {what} |" for key, what in BLOCKS.items()]
    return "\n".join(lines) + "\n"


# -- inside ---------------------------------------------------------------------------------------


def _rows(meanings: Mapping[str, Meaning]) -> Iterator[str]:
    yield "| key | unit | what |"
    yield "|---|---|---|"
    for key, meaning in meanings.items():
        yield f"| `{key}` | {meaning.unit} | {meaning.formula} |"
