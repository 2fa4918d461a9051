"""Which numbers a report shows, what they are called, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Mapping

from superinfer.lab.changes import Amount, Change
from superinfer.lab.metric_names import Summary, fraction_digits, is_share
from superinfer.lab.precision import PRECISION, precision_text

NONE = "\N{EN DASH}"
_SPACE = "\N{NO-BREAK SPACE}"

RUN_ROWS: Mapping[str, Mapping[str, str]] = {
    "Outcome": {
        "submitted": "requests submitted",
        "completed": "finished",
        "rejected": "rejected",
        "failed": "failed",
        "cancelled": "cancelled",
        "unfinished": "unfinished when the run was cut off",
        "slo_attainment": "SLO attainment",
        "ttft_attainment": "TTFT attainment",
        "tpot_attainment": "TPOT attainment",
        "paced_attainment": "paced attainment",
    },
    "Throughput": {
        "duration": "duration (s)",
        "request_throughput": "requests/s",
        "request_goodput": "goodput (requests/s)",
        "output_throughput": "output tokens/s",
        "token_goodput": "goodput (tokens/s)",
        "total_token_throughput": "tokens/s, prompts included",
    },
    "Memory": {
        "peak_kv_bytes": "peak KV in use",
        "peak_slab_bytes": "peak KV taken",
        "prefix_hit_rate": "prefix hits",
        "write_through_bytes": "written through",
        "write_through_useful_bytes": "written through and used",
        "write_through_wasted_bytes": "written through in vain",
        "prefetch_useful_bytes": "prefetched and used",
        "prefetch_wasted_bytes": "prefetched in vain",
        "losing_offloads": "offloads that would have lost",
        "kv_bits_mean": "bits per KV value, mean",
        "kv_kl": "expected KL of answers from 16-bit KV",
        "kv_perplexity_change": "expected change of perplexity from 16-bit KV",
        "recompute_tax": "recompute tax",
    },
    "Fairness and stalls": {
        "worst_stall_ms": "worst stall (ms)",
        "worst_wait_ms": "worst wait for a token (ms)",
        "jain_index": "Jain index of tenants",
        "vtc_gap": "service gap of tenants (weighted tokens)",
    },
    "The run itself": {
        "steps": "steps",
        "events": "events",
        "wall_s": "wall time (s)",
        "scheduler_s": "of it in the scheduler (s)",
    },
}
COMPARE_ROWS: Mapping[str, str] = {
    "slo_attainment": "SLO attainment",
    "ttft_attainment": "TTFT attainment",
    "tpot_attainment": "TPOT attainment",
    "paced_attainment": "paced attainment",
    "request_goodput": "goodput (requests/s)",
    "request_throughput": "requests/s",
    "output_throughput": "output tokens/s",
    "token_goodput": "goodput (tokens/s)",
    "median_ttft_ms": "TTFT median (ms)",
    "p99_ttft_ms": "TTFT p99 (ms)",
    "median_tpot_ms": "TPOT median (ms)",
    "p99_tpot_ms": "TPOT p99 (ms)",
    "p99_itl_ms": "ITL p99 (ms)",
    "median_e2el_ms": "E2E median (ms)",
    "p99_e2el_ms": "E2E p99 (ms)",
    "worst_stall_ms": "worst stall (ms)",
    "worst_wait_ms": "worst wait for a token (ms)",
    "preemptions": "preemptions",
    "rotations": "rotations",
    "recompute_tax": "recompute tax",
    "prefix_hit_rate": "prefix hits",
    "h2d_bytes": "host to device",
    "d2h_bytes": "device to host",
    "peak_kv_bytes": "peak KV in use",
    "jain_index": "Jain index of tenants",
    "vtc_gap": "service gap of tenants (weighted tokens)",
    "rejected": "rejected",
    "failed": "failed",
    "unfinished": "unfinished",
}
GROUP_ROWS: Mapping[str, str] = {
    "submitted": "requests",
    "slo_attainment": "SLO attainment",
    "median_ttft_ms": "TTFT median (ms)",
    "p99_ttft_ms": "TTFT p99 (ms)",
    "p99_tpot_ms": "TPOT p99 (ms)",
    "p99_itl_ms": "ITL p99 (ms)",
    "p99_e2el_ms": "E2E p99 (ms)",
    "worst_stall_ms": "worst stall (ms)",
    "worst_wait_ms": "worst wait for a token (ms)",
    "preemptions": "preemptions",
}
"""Of each class and tenant."""
STATISTICS = {
    "mean": "mean",
    "median": "median",
    "p90": "p90",
    "p95": "p95",
    "p99": "p99",
    "p999": "p99.9",
}
TARGETS = {
    "ttft_ms": "TTFT \N{LESS-THAN OR EQUAL TO} {} ms",
    "tpot_ms": "TPOT \N{LESS-THAN OR EQUAL TO} {} ms",
    "e2el_ms": "E2E \N{LESS-THAN OR EQUAL TO} {} ms",
    "min_tokens_per_s": "\N{GREATER-THAN OR EQUAL TO} {} tokens/s",
}

_GIB = 2**30


def compared_metrics(summary: Summary) -> list[str]:
    """Every metric that the report of a comparison shows, as `differences` takes them."""
    groups = [
        f"{kind}.{name}." for kind in ("classes", "tenants") for name in summary.get(kind) or {}
    ]
    each = (*GROUP_ROWS, *PRECISION)
    return [*COMPARE_ROWS, *PRECISION, *(group + key for group in groups for key in each)]


def shown(key: str, value: float | str | None) -> str:
    """A metric by its key: shares in per cent, bytes in GiB, a dash where it is undefined."""
    if value is None:
        return NONE
    if key in PRECISION or isinstance(value, str):
        return precision_text(key, value)
    if is_share(key):
        return f"{number(100 * value)}{_SPACE}%"
    if key.endswith("_bytes"):
        return f"{number(value / _GIB)}{_SPACE}GiB"
    return number(value)


def number(value: float | None) -> str:
    """A number with about four digits; a dash for none, and for what no float can hold."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NONE
    if value == int(value) and (isinstance(value, int) or abs(value) >= 100 or not value):
        return f"{value:,.0f}"
    return f"{value:,.{fraction_digits(value)}f}"


def unbroken(words: str) -> str:
    """Words that stay on one line."""
    return words.replace(" ", _SPACE)


def targets(slo: Mapping[str, float | None]) -> str:
    """The targets of a class in words; `none` without one."""
    found = [
        unbroken(words.format(number(slo[key]))) for key, words in TARGETS.items() if slo.get(key)
    ]
    return ", ".join(found) or "none"


def change_words(found: Change) -> str:
    """A difference in words, without its verdict: `+10.00 % [+5.00, +15.00]`, or `same`."""
    if found.verdict == "same":
        return "same"
    amount = found.amount
    words = unbroken(f"{_signed(amount.value)}{_unit(amount)}")
    if found.bounds is None:
        return words
    low, high = found.bounds
    bounds = f"[{_signed(low.value)}, {_signed(high.value)}]"
    if low.unit != amount.unit:
        bounds = f"[{_signed(low.value)} to {_signed(high.value)}{_unit(high)}]"
    return f"{words} {unbroken(bounds)}"


def _unit(amount: Amount) -> str:
    return f" {amount.unit}" if amount.unit else ""


def _signed(value: float) -> str:
    sign = "\N{MINUS SIGN}" if value < 0 else "+" if value > 0 else ""
    return f"{sign}{number(abs(value))}"
