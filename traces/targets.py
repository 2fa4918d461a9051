"""Tighter or looser targets out of those of a workload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from superinfer.request import SLO, Request


def scale_targets(requests: Sequence[Request], by: float) -> None:
    """Multiply every target that is a time, and divide those that are rates: 2 allows twice as
    long. A request without targets stays without.
    """
    if by == 1.0:
        return
    scaled: dict[SLO, SLO] = {}  # a trace has few different ones
    for request in requests:
        if request.slo not in scaled:
            scaled[request.slo] = _scaled(request.slo, by)
        request.slo = scaled[request.slo]


def _scaled(slo: SLO, by: float) -> SLO:
    def longer(target_s: float | None) -> float | None:
        return None if target_s is None else target_s * by

    rate = slo.min_tokens_per_s
    return replace(
        slo,
        ttft_s=longer(slo.ttft_s),
        tpot_s=longer(slo.tpot_s),
        e2el_s=longer(slo.e2el_s),
        min_tokens_per_s=None if rate is None else rate / by,
    )
