"""What every number of `summary.json` means: its unit, and how it is computed.

`docs/reference-metrics.md` is made of this table; a test holds it to the keys that runs have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SHARE, MS, TOKENS, REQUESTS, BYTES, COUNT = "0-1", "ms", "tokens", "requests", "bytes", "count"
RATE, TOKEN_RATE, SECONDS = "requests/s", "tokens/s", "s"


@dataclass(slots=True, frozen=True)
class Meaning:
    """One key, or several that differ by a statistic."""

    unit: str
    formula: str


LATENCIES: Mapping[str, str] = {
    "ttft": "first token - arrival; a preemption after it does not reset it",
    "tpot": "(E2E - TTFT) / (n - 1) for an answer of n tokens; undefined for n = 1",
    "itl": "each gap between two tokens of a request, pooled over all these requests",
    "e2el": "last token - arrival (E2E)",
}
"""Over finished requests; each has all `STATISTICS`, as in `p99_ttft_ms`."""

GROUP: Mapping[str, Meaning] = {
    "submitted": Meaning(
        REQUESTS, "all that the workload sent (with a window: that arrived in it)"
    ),
    "completed": Meaning(REQUESTS, "ended with their whole answer, or where the context ended it"),
    "rejected": Meaning(REQUESTS, "turned away by a rule of the scheduler"),
    "failed": Meaning(REQUESTS, "ended by an error on the way, such as no room on the host"),
    "cancelled": Meaning(REQUESTS, "taken back by the client"),
    "unfinished": Meaning(REQUESTS, "still under way where the run was cut off"),
    "duration": Meaning(
        SECONDS, "first arrival to the last end of a request, or the window's length"
    ),
    "total_input_tokens": Meaning(TOKENS, "prompt tokens of completed requests"),
    "total_output_tokens": Meaning(TOKENS, "answer tokens of completed requests"),
    "request_throughput": Meaning(RATE, "completed / duration"),
    "output_throughput": Meaning(TOKEN_RATE, "total_output_tokens / duration"),
    "total_token_throughput": Meaning(
        TOKEN_RATE, "(total_input_tokens + total_output_tokens) / duration"
    ),
    "max_itl_ms": Meaning(MS, "the longest gap between two tokens of a completed request"),
    "slo_attainment": Meaning(
        SHARE,
        "requests that finished and met every target they have / submitted requests that have one; "
        "who did not finish counts as missed; null where nobody has one",
    ),
    "ttft_attainment": Meaning(SHARE, "the same for the TTFT target alone"),
    "tpot_attainment": Meaning(SHARE, "the same for the TPOT target alone; holds for n = 1"),
    "paced_attainment": Meaning(
        SHARE,
        "requests that finished and whose token i (the first is 0) came by arrival + TTFT target + "
        "i x TPOT target, for every i / submitted requests that have both targets",
    ),
    "request_goodput": Meaning(RATE, "requests that met all of their targets / duration"),
    "token_goodput": Meaning(TOKEN_RATE, "answer tokens of those requests / duration"),
    "preemptions": Meaning(COUNT, "times that a request lost the device, rotations included"),
    "rotations": Meaning(COUNT, "those of them that copied the cache to the host"),
    "h2d_bytes": Meaning(
        BYTES,
        "copied from the host to the device, per GPU and over all replicas (with a window: what "
        "was decided inside, for whichever request)",
    ),
    "d2h_bytes": Meaning(
        BYTES,
        "copied from the device to the host, likewise; that of the run also has what went for no "
        "request: cached blocks and write-through",
    ),
    "recompute_tax": Meaning(
        SHARE,
        "tokens computed once more after a preemption / all computed, of prompts and answers; with "
        "lag 1 the run's also counts steps that came after an answer's end, which are nobody's",
    ),
    "prefix_hit_rate": Meaning(
        SHARE,
        "prompt tokens found in the cache at first admission / prompt tokens looked up: those of "
        "admitted requests; null without prefix caching",
    ),
    "kv_bits_mean": Meaning(
        "bits", "mean bits of a cached value that decode steps read, requests weighed by tokens"
    ),
    "kv_kl": Meaning(
        "nats",
        "expected Kullback-Leibler divergence from 16 bits: sum over 8 and 4 bits of the share "
        "read x the figure of the profile's quality table; `unmeasured` without one",
    ),
    "kv_perplexity_change": Meaning("share", "expected relative change of perplexity, likewise"),
    "worst_stall_ms": Meaning(
        MS,
        "longest time between two tokens, of requests of every state; for one that failed or was "
        "cancelled also from its last token to its end",
    ),
    "worst_wait_ms": Meaning(
        MS,
        "longest time without a token, the wait for the first one included, of every state; who "
        "got no more waited until its end, or that of the run",
    ),
    "slo": Meaning("ms, tokens/s", "the targets that all requests share; null where they differ"),
}
"""Of the run, of every class and of every tenant."""

RUN: Mapping[str, Meaning] = {
    "peak_kv_bytes": Meaning(
        BYTES,
        "most bytes of blocks that live requests held, per GPU; of several replicas the sum of "
        "their peaks",
    ),
    "peak_slab_bytes": Meaning(
        BYTES,
        "most bytes taken from the device for KV, cached blocks too: whole slabs (64 MiB on a GPU) "
        "where blocks may lose bits, else single blocks; of several replicas likewise",
    ),
    "write_through_bytes": Meaning(BYTES, "full blocks of running requests copied ahead of need"),
    "write_through_useful_bytes": Meaning(
        BYTES, "of these, what a later rotation did not have to copy"
    ),
    "write_through_wasted_bytes": Meaning(BYTES, "of these, what was never of use"),
    "prefetch_useful_bytes": Meaning(
        BYTES, "copied back ahead of need, and the request got a token before it left again"
    ),
    "prefetch_wasted_bytes": Meaning(BYTES, "copied back ahead of need, and it got none"),
    "losing_offloads": Meaning(
        COUNT, "copies to the host not made because computing again took no longer"
    ),
    "jain_index": Meaning(
        "1/tenants-1",
        "(sum x)^2 / (n sum x^2) of x = service / max-min fair share, the mean over the times (512 "
        "step ends at most) at which a tenant has requests that were never scheduled yet; a "
        "prompt token counts 1, an answer token 2; of 64 tenants at most, null below two",
    ),
    "vtc_gap": Meaning(
        "weighted tokens",
        "largest difference in service that built up between two tenants while both had requests "
        "that were never scheduled yet; 0 where no two ever had at once",
    ),
    "scheduler_s": Meaning(SECONDS, "time of this machine in the scheduler's decisions"),
    "wall_s": Meaning(SECONDS, "time of this machine for the whole run"),
    "sim_requests_per_wall_s": Meaning(RATE, "requests of the trace / wall_s; null on a device"),
    "steps": Meaning(COUNT, "engine iterations"),
    "events": Meaning(COUNT, "events of the simulation"),
}
"""Of the run alone."""

REPLICA: Mapping[str, Meaning] = {
    "replica": Meaning("number", "from 0"),
    "utilisation": Meaning(SHARE, "time in which a step was under way / the whole run"),
}
"""Of every replica of a cluster, beside keys of the run."""

BLOCKS: Mapping[str, str] = {
    "version": "of the form of the file",
    "classes": "the keys of a group for every service class",
    "tenants": "the same for every tenant (beyond 64, the rest as `(others)`)",
    "replicas": "a row for every replica, with more than one",
    "counters": "what the scheduler and the memory policy count of their own",
    "notes": "what a policy wants to be known, in words",
    "load": "how the workload was sent, and what was left of each backlog",
    "trust": "where the step times come from, and how far the run left what was measured",
    "run": "all settings, seed, versions, and `profile_sha256`: of the bytes of the profile's "
    "file, null where step times come from none",
}
"""Keys that hold no number of the run."""
