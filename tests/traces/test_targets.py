"""Tighter or looser targets."""

from __future__ import annotations

from superinfer.request import SLO, Request
from traces.targets import scale_targets


def test_times_grow_and_rates_fall() -> None:
    slo = SLO(ttft_s=1.0, tpot_s=0.1, e2el_s=4.0, min_tokens_per_s=10.0)
    requests = [Request("a", 0.0, 10, 10, slo), Request("b", 1.0, 10, 10, SLO(ttft_s=0.5))]
    scale_targets(requests, 2.0)
    assert requests[0].slo == SLO(ttft_s=2.0, tpot_s=0.2, e2el_s=8.0, min_tokens_per_s=5.0)
    assert requests[1].slo == SLO(ttft_s=1.0)


def test_who_has_no_target_gets_none() -> None:
    requests = [Request("a", 0.0, 10, 10)]
    scale_targets(requests, 0.5)
    assert requests[0].slo.empty


def test_one_changes_nothing() -> None:
    slo = SLO(ttft_s=1.0)
    requests = [Request("a", 0.0, 10, 10, slo)]
    scale_targets(requests, 1.0)
    assert requests[0].slo is slo
