"""What summaries hold: what metrics are called in tables and pictures, and which way is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Summary = Mapping[str, Any]
"""A `summary.json` as it is read, or that of one class or tenant in it."""

LATENCIES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2el": "E2E"}
COMPARE_ROWS = {
    "slo_attainment": "SLO attainment (%)",
    "ttft_attainment": "TTFT attainment (%)",
    "tpot_attainment": "TPOT attainment (%)",
    "request_goodput": "goodput (requests/s)",
    "request_throughput": "requests/s",
    "output_throughput": "output tokens/s",
    "median_ttft_ms": "TTFT median (ms)",
    "p99_ttft_ms": "TTFT p99 (ms)",
    "median_tpot_ms": "TPOT median (ms)",
    "p99_tpot_ms": "TPOT p99 (ms)",
    "p99_itl_ms": "ITL p99 (ms)",
    "p99_e2el_ms": "E2E p99 (ms)",
    "worst_stall_ms": "worst stall (ms)",
    "worst_wait_ms": "worst wait (ms)",
    "preemptions": "preemptions",
    "recompute_tax": "recompute tax (%)",
    "prefix_hit_rate": "prefix hits (%)",
    "jain_index": "Jain index",
    "vtc_gap": "VTC gap (tokens)",
    "rejected": "rejected",
}
"""What a comparison shows, with its unit."""
SAME = 0.05
"""Differences, in per cent or points, that would print as 0.0 count as none."""

_SHARES = ("attainment", "tax", "rate", "share", "error", "utilisation")
_HIGHER_IS_BETTER = (
    "attainment",
    "goodput",
    "throughput",
    "hit_rate",
    "jain_index",
    "kv_bits",
    "completed",
)


def fraction_digits(value: float) -> int:
    """Digits behind the point that show about four of a number."""
    size = abs(value)
    return 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3


def is_share(key: str) -> bool:
    """True for what is written in per cent."""
    return key.endswith(_SHARES)


def higher_is_better(key: str) -> bool:
    """True for shares met, rates and hits; False for latencies, losses and traffic."""
    return any(word in key for word in _HIGHER_IS_BETTER)
