"""What a run leaves behind, as columns: the input of metrics, result files and plots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from superinfer.request import Request

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(slots=True)
class RequestTable:
    """One row per submitted request, in the order of submission. Unknown times are NaN."""

    requests: list[Request]
    state: list[str]
    """`finished`, `rejected`, `failed` or `cancelled`."""
    reject_reason: list[str | None]
    first_scheduled_s: Floats
    first_token_s: Floats
    finish_s: Floats
    """When the last token came; for the other states, when the request ended."""
    output_tokens: Ints
    cached_tokens: Ints
    """Prompt tokens whose KV came from the prefix cache at the first admission."""
    recomputed_tokens: Ints
    """Tokens computed again because a preemption dropped their KV."""
    preemptions: Ints
    rotations: Ints
    h2d_bytes: Ints
    d2h_bytes: Ints
    kv_bits: Floats
    """Mean bits per value of the cache that the request's decode steps have read, each step counted
    by what it reads; of an answer of one token, of the cache at its end. NaN if it never had one.
    """
    kv_8_share: Floats
    """Share of that in blocks of 8 bits; the rest has 16, or 4."""
    kv_4_share: Floats
    computed_tokens: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    """Tokens whose KV was computed for the request, recomputation included; with lag 1 without what
    a step gave after its end, which was thrown away."""
    replica: Ints | None = None
    """Number of the replica that took each request; None where there is only one."""


@dataclass(slots=True)
class TokenTimes:
    """When every output token came, without storing one number per token.

    `decode_end_s[k]` is the end of the k-th step in which the decode batch advanced. A *run* is a
    stretch of such steps in which one request got a token at each: request row `run_row`, steps
    `[run_first, run_stop)`, and `run_previous_s` is when its token before the run came. A *gap* is
    a wait between two tokens that no run covers (a token that ended a recomputed prefill).
    """

    decode_end_s: Floats
    run_row: Ints
    run_first: Ints
    run_stop: Ints
    run_previous_s: Floats
    gap_row: Ints
    gap_s: Floats
    replica_first: Ints = field(default_factory=lambda: np.zeros(1, np.int64))
    """Where the steps of each replica begin in `decode_end_s`; they follow each other."""


@dataclass(slots=True)
class Timeline:
    """State of the replica, sampled at step boundaries (at most a few thousand samples)."""

    t_s: Floats
    waiting: Ints
    """Requests that hold no KV in device memory: new, preempted or swapped out."""
    running: Ints
    referenced_blocks: Ints
    """Blocks that live requests hold."""
    cached_blocks: Ints
    """Blocks kept only for reuse."""
    host_blocks: Ints
    """Host blocks of 16 bits in whose place are requests swapped out, and copies of cached and of
    running ones."""
    rotations: Ints
    """Copies of caches to the host so far; this column and the next two only ever grow."""
    h2d_bytes: Ints
    """Bytes on the way to the device so far, per GPU, counted when the copy is decided."""
    d2h_bytes: Ints


@dataclass(slots=True)
class Copies:
    """Copies between device and host, each with the time at which it was decided."""

    decided_s: Floats
    row: Ints
    """The request that was copied; `NO_REQUEST` for cached blocks and what was written through."""
    nbytes: Ints
    """Per GPU; below 0 for those to the host."""


NO_REQUEST: Final = -1


def no_copies() -> Copies:
    """Of a run that copied nothing."""
    return Copies(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(slots=True)
class ReplicaUse:
    """What one replica of a cluster did, beside what its requests tell."""

    busy_s: float
    """Seconds in which a step was under way."""
    peak_referenced_blocks: int
    peak_used_blocks: int
    prefix_query_tokens: int
    prefix_hit_tokens: int
    steps: int


@dataclass(slots=True)
class RunRecord:
    """Everything that an engine recorded, plus the sizes that turn blocks into bytes.

    That of a cluster is put together by `superinfer.records.cluster`: blocks, peaks and counts are
    sums over its replicas.
    """

    table: RequestTable
    tokens: TokenTimes
    timeline: Timeline
    total_blocks: int
    block_tokens: int
    block_bytes: int
    peak_referenced_blocks: int
    peak_used_blocks: int
    """Most of `total_blocks` that were taken at once, cached ones included; a slab of smaller ones
    takes all of it."""
    computed_tokens: int
    """Tokens whose KV was computed, recomputation included, and with lag 1 steps that were thrown
    away."""
    prefix_query_tokens: int
    prefix_hit_tokens: int
    slab_blocks: int = 1
    """Blocks of 16 bits in a slab, where blocks may lose bits: the device's memory is then taken
    slab by slab. 1: block by block."""
    cache_d2h_bytes: int = 0
    """Bytes copied to the host that count for no request: cached blocks, and what was written
    through."""
    write_through_bytes: int = 0
    """Bytes of running requests' full blocks that were copied to the host ahead of need."""
    write_through_useful_bytes: int = 0
    """Of these, what did not have to be copied when its request was swapped out."""
    write_through_wasted_bytes: int = 0
    """Of these, what was never of use, because its request ended or the room was needed."""
    prefetch_useful_bytes: int = 0
    """Bytes copied back ahead of need for requests that got a token before they left again."""
    prefetch_wasted_bytes: int = 0
    """Bytes copied back ahead of need for requests that got no token before they left again."""
    losing_offloads: int = 0
    """Copies to the host that were not made because computing again took no longer."""
    steps: int = 0
    plans: int = 0
    events: int = 0
    quality: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """By bits (`8`, `4`) what a cache of that precision costs: `kl` and `perplexity_change` against
    16 bits, as measured; None or absent where nobody did."""
    extra: dict[str, float] = field(default_factory=dict)
    """Counters that only one scheduler or memory policy keeps."""
    notes: list[str] = field(default_factory=list)
    """What a memory policy has to say of the run."""
    replicas: list[ReplicaUse] = field(default_factory=list)
    """Each replica of a cluster; empty for a single engine."""
    copies: Copies = field(default_factory=no_copies)
