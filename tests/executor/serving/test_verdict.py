"""Whether a request met its targets, and how long it took."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from serving_kit import ended

from executor.serving.engine.letters import Ended
from executor.serving.verdict import Verdict
from superinfer.metrics.columns import RequestView
from superinfer.records.run import RequestTable, RunRecord, Timeline, TokenTimes
from superinfer.request import SLO, Request

TARGETS = st.none() | st.sampled_from([0.25, 0.5, 1.0, 2.0])


def test_latencies_of_one_request() -> None:
    verdict = Verdict.of(*ended())
    assert (verdict.queue_s, verdict.prefill_s, verdict.decode_s) == (0.25, 0.25, 1.0)
    assert (verdict.ttft_s, verdict.tpot_s, verdict.e2el_s) == (0.5, 0.25, 1.5)
    assert verdict.slo_met is None
    assert Verdict.of(*ended(output_tokens=1)).tpot_s is None
    unseen = Verdict.of(*ended(outcome="rejected", first_scheduled_s=None, first_token_s=None))
    assert (unseen.queue_s, unseen.ttft_s, unseen.tpot_s) == (None, None, None)


@given(
    slo=st.builds(SLO, TARGETS, TARGETS, TARGETS, st.none() | st.sampled_from([1.0, 4.0, 9.0])),
    first_s=st.sampled_from([1.25, 1.5, 2.0, 3.0]),
    decode_s=st.sampled_from([0.0, 0.25, 1.0, 2.0]),
    tokens=st.integers(1, 6),
    outcome=st.sampled_from(["finished", "cancelled", "failed"]),
)
def test_the_verdict_is_that_of_a_run(
    slo: SLO, first_s: float, decode_s: float, tokens: int, outcome: str
) -> None:
    """As `superinfer.metrics` would judge it."""
    one = ended(
        outcome=outcome,
        slo=slo,
        first_token_s=first_s,
        finish_s=first_s + decode_s,
        output_tokens=tokens,
    )
    met = RequestView.of(_record(*one)).met["slo"][0]
    assert Verdict.of(*one).slo_met == (None if slo.empty else bool(met))


def _record(request: Request, one: Ended) -> RunRecord:
    """The record of a run of this request alone."""
    none = np.zeros(0)
    ints = {
        name: np.zeros(1, np.int64)
        for name in ("cached_tokens", "recomputed_tokens", "preemptions", "rotations")
    }
    table = RequestTable(
        requests=[request],
        state=[one.outcome],
        reject_reason=[None],
        first_scheduled_s=np.array([one.first_scheduled_s]),
        first_token_s=np.array([one.first_token_s]),
        finish_s=np.array([one.finish_s]),
        output_tokens=np.array([one.output_tokens]),
        h2d_bytes=np.zeros(1, np.int64),
        d2h_bytes=np.zeros(1, np.int64),
        kv_bits=np.full(1, 16.0),
        kv_8_share=np.zeros(1),
        kv_4_share=np.zeros(1),
        **ints,
    )
    places = none.astype(np.int64)
    tokens = TokenTimes(none, places, places, places, none, places, none)
    timeline = Timeline(none, *[places] * 8)
    return RunRecord(
        table=table,
        tokens=tokens,
        timeline=timeline,
        total_blocks=1,
        block_tokens=16,
        block_bytes=1,
        peak_referenced_blocks=0,
        peak_used_blocks=0,
        computed_tokens=0,
        prefix_query_tokens=0,
        prefix_hit_tokens=0,
        cache_d2h_bytes=0,
        write_through_bytes=0,
        write_through_useful_bytes=0,
        write_through_wasted_bytes=0,
        prefetch_useful_bytes=0,
        prefetch_wasted_bytes=0,
        losing_offloads=0,
        steps=0,
        plans=0,
        events=0,
        extra={},
        notes=[],
    )
