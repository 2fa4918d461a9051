"""Per-request columns: identity, latencies, targets, and which targets were met."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from superinfer.metrics.paced import in_pace
from superinfer.metrics.tokens import Bools, TokenStreams, token_streams
from superinfer.records.run import Floats, Ints, RunRecord
from superinfer.request import Request

TIE_S = 1e-9
"""A nanosecond: floating-point rounding never decides whether a target was met."""


@dataclass(slots=True)
class Targets:
    """Targets of every request in seconds (tokens/s for the last); NaN where there is none."""

    ttft_s: Floats
    tpot_s: Floats
    e2el_s: Floats
    min_tokens_per_s: Floats

    @classmethod
    def of(cls, requests: list[Request]) -> Targets:
        """Targets of `requests`, in their order; numpy reads None as NaN."""
        slos = {id(request.slo): request.slo for request in requests}
        place = {key: i for i, key in enumerate(slos)}  # most requests share theirs
        at = np.fromiter([place[id(request.slo)] for request in requests], np.int64, len(requests))
        return cls(
            np.array([slo.ttft_s for slo in slos.values()], np.float64)[at],
            np.array([slo.tpot_s for slo in slos.values()], np.float64)[at],
            np.array([slo.e2el_s for slo in slos.values()], np.float64)[at],
            np.array([slo.min_tokens_per_s for slo in slos.values()], np.float64)[at],
        )

    @property
    def any(self) -> Bools:
        """True where a request has at least one target."""
        targets = (self.ttft_s, self.tpot_s, self.e2el_s, self.min_tokens_per_s)
        found: Bools = np.logical_or.reduce([~np.isnan(target) for target in targets])
        return found


@dataclass(slots=True)
class RequestView:
    """What metrics need of each request, as arrays in the order of the record's table.

    TTFT is first token - arrival. E2E is last token - arrival and TPOT is (E2E - TTFT)/(n - 1),
    the definitions of `vllm bench serve`; both are NaN unless the request finished, and TPOT is
    also NaN for n = 1. TTFT is kept for every request that got a token.
    """

    record: RunRecord
    streams: TokenStreams
    targets: Targets
    finished: Bools
    arrival_s: Floats
    input_tokens: Ints
    ttft_s: Floats
    tpot_s: Floats
    e2el_s: Floats
    longest_gap_s: Floats
    met: dict[str, Bools] = field(default_factory=dict)
    """`slo`, `ttft`, `tpot`, `paced`: the request finished and met its targets of that kind."""

    @classmethod
    def of(cls, record: RunRecord) -> RequestView:
        """Derive the view of `record`."""
        table, requests = record.table, record.table.requests
        streams = token_streams(record.tokens, table.first_token_s)
        arrival = np.array([request.arrival_s for request in requests], np.float64)
        finished = np.array([state == "finished" for state in table.state], np.bool_)
        e2el = np.where(finished, table.finish_s - arrival, np.nan)
        ttft = table.first_token_s - arrival
        many = np.where(table.output_tokens > 1, table.output_tokens - 1.0, np.nan)
        view = cls(
            record=record,
            streams=streams,
            targets=Targets.of(requests),
            finished=finished,
            arrival_s=arrival,
            input_tokens=np.array([request.prompt_tokens for request in requests], np.int64),
            ttft_s=ttft,
            tpot_s=(e2el - ttft) / many,
            e2el_s=e2el,
            longest_gap_s=streams.longest_gap_s(),
        )
        view.met = _met(view)
        return view


def request_columns(record: RunRecord) -> dict[str, NDArray[np.generic] | list[object]]:
    """The columns of `requests.parquet`: arrays of int64 or float64, or lists where null occurs.

    Unknown times are NaN. `slo_met` is None for a request without a target.
    """
    return columns_of(RequestView.of(record))


def columns_of(view: RequestView) -> dict[str, NDArray[np.generic] | list[object]]:
    """`request_columns` of a view that is already there."""
    table, requests = view.record.table, view.record.table.requests
    placed = {} if table.replica is None else {"replica": table.replica}
    return {
        "request_id": [request.request_id for request in requests],
        "session_id": [request.session_id for request in requests],
        "tenant": [request.tenant for request in requests],
        "class": [request.slo_class.name for request in requests],
        "priority": np.array([request.priority for request in requests], np.int64),
        "namespace": [request.namespace for request in requests],
        "arrival_s": view.arrival_s,
        "first_token_s": table.first_token_s,
        "finish_s": table.finish_s,
        "queue_s": table.first_scheduled_s - view.arrival_s,
        "ttft_ms": view.ttft_s * 1e3,
        "tpot_ms": view.tpot_s * 1e3,
        "e2el_ms": view.e2el_s * 1e3,
        "max_itl_ms": view.longest_gap_s * 1e3,
        "input_tokens": view.input_tokens,
        "output_tokens": table.output_tokens,
        "max_tokens": np.array([request.max_tokens for request in requests], np.int64),
        "cached_tokens": table.cached_tokens,
        "recomputed_tokens": table.recomputed_tokens,
        "preemptions": table.preemptions,
        "rotations": table.rotations,
        "h2d_bytes": table.h2d_bytes,
        "d2h_bytes": table.d2h_bytes,
        "kv_bits": table.kv_bits,
        "state": list(table.state),
        "reject_reason": list(table.reject_reason),
        "slo_met": _nullable(view.met["slo"], view.targets.any),
        **placed,
    }


def _nullable(values: Bools, known: Bools) -> list[object]:
    return [v if k else None for v, k in zip(values.tolist(), known.tolist(), strict=True)]


def _met(view: RequestView) -> dict[str, Bools]:
    """Which requests finished and met what they asked for; a target that is absent holds.

    TPOT is not judged for an answer of one token: it holds, as in `vllm bench serve`.
    """
    targets, finished = view.targets, view.finished
    ttft = finished & ~(view.ttft_s > targets.ttft_s + TIE_S)
    tpot = finished & ~(view.tpot_s > targets.tpot_s + TIE_S)
    slow = view.record.table.output_tokens < targets.min_tokens_per_s * (view.e2el_s - TIE_S)
    in_time = ~(view.e2el_s > targets.e2el_s + TIE_S) & ~slow
    due = view.arrival_s + targets.ttft_s + TIE_S
    paced = finished & in_pace(view.streams, due, targets.tpot_s)
    return {"slo": ttft & tpot & in_time, "ttft": ttft, "tpot": tpot, "paced": paced}
