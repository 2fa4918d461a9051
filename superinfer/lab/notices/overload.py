"""Whether a run was sent more than it could serve, in words: waits then say how long it was sent,
not how the system answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from superinfer.records.run import Floats

TOO_HIGH = "the load seems to be above what is served"

FEWEST_REQUESTS = 60
SHORTEST_S = 30.0
"""Fewer requests, or a shorter span of arrivals, tell nothing of a load."""
LATE = 1.25
"""Times the span of arrivals, after which first tokens are those of a queue that was left over."""
ALIKE = 1.1
"""The same beside a run that is over `LATE`: of the same load, so it is told of more of them."""
_QUEUE = 0.99
"""Share of the first tokens that is looked at: a single long prompt at the end is no queue."""


def overload_warning(
    load: Mapping[str, Any], arrival_s: Floats, ttft_s: Floats, late: float = LATE
) -> str:
    """One line if first tokens were still owed long after the last arrival; empty otherwise.

    `load` is that of `summary.json`; the others hold a number per request, NaN for the TTFT of one
    that got no token. `late` is in spans of arrivals. Only of an open loop, in which nobody waits
    for answers before they ask.
    """
    last_s = left_over_s(arrival_s, ttft_s, late) if _open_loop(load) else 0.0
    if not last_s:
        return ""
    return (
        f"{TOO_HIGH}: requests arrive for {np.ptp(arrival_s):,.0f} s, and first tokens come for "
        f"{last_s:,.0f} s (TTFT: mean {np.nanmean(ttft_s):,.1f} s); latencies hold for a run "
        "of this length only"
    )


def left_over_s(arrival_s: Floats, ttft_s: Floats, late: float = LATE) -> float:
    """Until when first tokens came, from the first arrival on, where that is long after the last
    arrival: of a queue that was left over. 0 where it is not, or too few came to tell.
    """
    served = ~np.isnan(ttft_s)
    if arrival_s.size < FEWEST_REQUESTS or np.ptp(arrival_s) < SHORTEST_S or not served.any():
        return 0.0
    after_s = (arrival_s + ttft_s)[served] - arrival_s.min()
    last_s = float(np.quantile(after_s, _QUEUE, method="lower"))
    return last_s if last_s > late * np.ptp(arrival_s) else 0.0


def _open_loop(load: Mapping[str, Any]) -> bool:
    """True where arrivals are those of the trace, whatever is served."""
    waits = load.get("concurrency") or load.get("backlog") or load.get("in_flight")
    return not waits and load.get("sessions") != "closed"
