"""`docs/reference-metrics.md`: every number of `summary.json` with unit and formula."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.tables.parts import Lines, page_of, table
from superinfer.metrics.meanings import BLOCKS, GROUP, LATENCIES, REPLICA, RUN, Meaning
from superinfer.metrics.statistics import STATISTICS
from superinfer.metrics.summary import REPLICA_KEYS

_HEAD = """\
# Metrics

Every key of `summary.json`, by the names of `vllm bench serve` where there is one. A run without
what a number is about has null there. Latencies, token totals and `completed` are over finished
requests; rates divide by the `duration` of the whole run, so the rates of all classes add up. With
`run.window_s` counts, latencies, attainment and goodput are of the requests that arrived inside,
tokens, copied bytes and the other rates of what came inside. Files beside it, and what counts as
meeting an SLO: [formats](formats.md#a-result-folder). Between tenants:
[fairness](fairness.md#reading-the-metrics). This page is made by
`python -m experiments.reference`."""
_WHOLE = """\
Of the whole run, with `run.window_s` too. No class or tenant has these: blocks and the link are
shared, so that a peak or a copy ahead of need is nobody's alone, fairness is between tenants, and
the rest is about the machine that simulates."""
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
    spread = ", ".join(f"`{name}` ({_SPREAD[name]})" for name in STATISTICS)
    named = ", ".join(f"`{key}`" for key in REPLICA_KEYS)
    return page_of(
        _HEAD,
        "## Latencies",
        f"In ms, each as {spread}: `p99_ttft_ms` is the 99 % quantile of TTFT.",
        _meanings("in the key", LATENCIES),
        "## Of the run, a class or a tenant",
        _rows(GROUP),
        "## Of the run",
        _WHOLE,
        _rows(RUN),
        "## Of a replica",
        f"In `replicas`, beside {named}, `prefix_hit_rate`,\n"
        "`peak_kv_bytes`, `peak_slab_bytes` and `steps`, those four of the whole run:",
        _rows(REPLICA),
        "## What else is in the file",
        _meanings("key", BLOCKS),
    )


# -- inside ---------------------------------------------------------------------------------------


def _rows(meanings: Mapping[str, Meaning]) -> Lines:
    rows = ([f"`{key}`", each.unit, each.formula] for key, each in meanings.items())
    return table(["key", "unit", "what"], rows, texts=3)


def _meanings(of: str, meanings: Mapping[str, str]) -> Lines:
    return table([of, "what"], ([f"`{key}`", what] for key, what in meanings.items()), texts=2)
