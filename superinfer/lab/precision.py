"""Bits of the KV cache and what they are expected to cost, for tables that show them beside
latencies: where any request had fewer than 16 bits, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from superinfer.lab.metric_names import Summary

PRECISION: Final[Mapping[str, str]] = {
    "kv_bits_mean": "KV bits",
    "kv_perplexity_change": "expected perplexity",
    "kv_kl": "expected KL",
}
"""Keys of `summary.json`, of the run and of its groups, by the titles of their columns."""
FULL_BITS: Final = 16


def lost_bits(summaries: Iterable[Summary]) -> bool:
    """Whether any request of these runs had a cache of fewer than 16 bits."""
    means = (summary.get("kv_bits_mean") for summary in summaries)
    return any(bits is not None and bits < FULL_BITS for bits in means)


def shown_precision(summaries: Iterable[Summary]) -> Mapping[str, str]:
    """The columns for these runs: none where all caches had 16 bits."""
    return PRECISION if lost_bits(summaries) else {}


def precision_text(key: str, value: float | str) -> str:
    """A value of these columns: changes of perplexity in per cent, words as they are."""
    if isinstance(value, str):
        return value
    if key == "kv_perplexity_change":
        return f"{value:+.3%}"
    if key == "kv_kl":
        return f"{value:.1e}" if value else "0"
    return f"{value:.2f}"
