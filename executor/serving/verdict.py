"""What became of one request, by the definitions of `superinfer.metrics`."""

from __future__ import annotations

from dataclasses import dataclass

from executor.serving.engine.letters import Ended
from superinfer.metrics.columns import TIE_S
from superinfer.request import SLO, Request


@dataclass(frozen=True, slots=True)
class Verdict:
    """Latencies of one request, None where there is none, and whether it met its targets."""

    queue_s: float | None
    prefill_s: float | None
    decode_s: float | None
    ttft_s: float | None
    tpot_s: float | None
    e2el_s: float
    slo_met: bool | None
    """None for a request without targets."""

    @classmethod
    def of(cls, request: Request, ended: Ended) -> Verdict:
        """From the times at which it was scheduled, answered and over."""
        arrival_s, e2el_s = request.arrival_s, ended.finish_s - request.arrival_s
        first_s = ended.first_token_s
        ttft_s = _between(arrival_s, first_s)
        decode_s = _between(first_s, ended.finish_s)
        further = ended.output_tokens - 1
        tpot_s = decode_s / further if decode_s is not None and further > 0 else None
        return cls(
            queue_s=_between(arrival_s, ended.first_scheduled_s),
            prefill_s=_between(ended.first_scheduled_s, first_s),
            decode_s=decode_s,
            ttft_s=ttft_s,
            tpot_s=tpot_s,
            e2el_s=e2el_s,
            slo_met=None if request.slo.empty else _met(request.slo, ended, ttft_s, tpot_s, e2el_s),
        )


def _met(slo: SLO, ended: Ended, ttft_s: float | None, tpot_s: float | None, e2el_s: float) -> bool:
    """It finished, and every target that it has holds; an answer of one token has no TPOT."""
    tokens = ended.output_tokens
    slow = slo.min_tokens_per_s is not None and tokens < slo.min_tokens_per_s * (e2el_s - TIE_S)
    pairs = ((ttft_s, slo.ttft_s), (tpot_s, slo.tpot_s), (e2el_s, slo.e2el_s))
    late = any(is_ > most + TIE_S for is_, most in pairs if is_ is not None and most is not None)
    return ended.outcome == "finished" and not slow and not late


def _between(start_s: float | None, end_s: float | None) -> float | None:
    return None if start_s is None or end_s is None else end_s - start_s
