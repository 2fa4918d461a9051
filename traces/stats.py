"""What a workload looks like: rates, lengths, and how much of its prompts is shared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superinfer.request import Request
from traces.workload import Workload


def trace_stats(workload: Workload) -> dict[str, Any]:
    """A description that fits into JSON; what cannot be known is `None`."""
    requests = workload.requests
    return {
        "name": workload.name,
        "requests": len(requests),
        **_arrivals(np.array([request.arrival_s for request in requests])),
        "prompt_tokens": _lengths([request.prompt_tokens for request in requests]),
        "output_tokens": _lengths(workload.output_tokens),
        "classes": dict(Counter(request.slo_class.name for request in requests)),
        "tenants": dict(Counter(request.tenant for request in requests)),
        "sessions": len({request.session_id for request in requests} - {None}),
        **_prefix_sharing(requests),
        "raised_max_tokens": workload.raised_max_tokens,
        "skipped": workload.skipped,
    }


def _arrivals(arrivals_s: NDArray[np.float64]) -> dict[str, float | None]:
    gaps_s = np.diff(arrivals_s)
    duration_s = float(gaps_s.sum())
    known = duration_s > 0
    return {
        "duration_s": duration_s,
        "rate_per_s": len(arrivals_s) / duration_s if known else None,
        "cv_interarrival": float(gaps_s.std() / gaps_s.mean()) if known else None,
    }


def _lengths(tokens: Sequence[int]) -> dict[str, float] | None:
    if not tokens:
        return None
    p50, p90, p99 = np.percentile(tokens, [50, 90, 99])
    return {
        "mean": float(np.mean(tokens)),
        "p50": float(p50),
        "p90": float(p90),
        "p99": float(p99),
        "max": max(tokens),
    }


def _prefix_sharing(requests: Sequence[Request]) -> dict[str, float | int | None]:
    """Hits with a cache that never forgets: the leading hash blocks that came before."""
    seen: set[tuple[object, ...]] = set()
    blocks = hits = 0
    for request in requests:
        keys = _block_keys(request)
        blocks += len(keys)
        hits += next((i for i, key in enumerate(keys) if key not in seen), len(keys))
        seen.update(keys)
    return {
        "prefix_blocks": blocks,
        "prefix_unique_blocks": len(seen),
        "prefix_hit_rate": hits / blocks if blocks else None,
    }


def _block_keys(request: Request) -> list[tuple[object, ...]]:
    """One key per hash block; the last block matches only one of the same length."""
    ids, block_tokens = request.hash_ids, request.hash_block_tokens
    last_tokens = request.prompt_tokens - (len(ids) - 1) * block_tokens
    spans = [block_tokens] * (len(ids) - 1) + [last_tokens]
    return [
        (request.namespace, block_tokens, hash_id, tokens)
        for hash_id, tokens in zip(ids, spans, strict=False)
    ]
