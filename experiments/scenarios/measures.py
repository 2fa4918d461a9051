"""The numbers that are reported of every arm, by class and of the machine."""

from __future__ import annotations

from experiments.studykit.measures import Measure

ATTAINMENT = "classes.chat.slo_attainment"
P99_TTFT = "classes.chat.p99_ttft_ms"
BATCH = "classes.batch.output_throughput"
PEAK_KV = "peak_kv_gib"
MEAN_E2E = "mean_e2el_ms"


CHAT_MEASURES = (
    Measure(ATTAINMENT, "attainment (%)", 100, 1),
    Measure("classes.chat.median_ttft_ms", "P50 TTFT (ms)"),
    Measure("classes.chat.p95_ttft_ms", "P95 TTFT (ms)"),
    Measure(P99_TTFT, "P99 TTFT (ms)"),
    Measure("classes.chat.p99_itl_ms", "P99 ITL (ms)"),
    Measure("classes.chat.p999_itl_ms", "P99.9 ITL (ms)"),
    Measure("classes.chat.max_itl_ms", "max ITL (ms)"),
    Measure("classes.chat.rejected", "rejected", 1, 1),
    Measure("classes.chat.unfinished", "unfinished", 1, 1),
    Measure("relegations", "relegated", 1, 1),
)
BATCH_MEASURES = (
    Measure(BATCH, "output tokens/s", 1, 1),
    Measure("classes.batch.total_token_throughput", "all tokens/s"),
    Measure("classes.batch.median_ttft_ms", "P50 TTFT (s)", 1e-3, 1),
    Measure("classes.batch.p99_ttft_ms", "P99 TTFT (s)", 1e-3, 1),
    Measure("classes.batch.p99_itl_ms", "P99 ITL (ms)"),
    Measure("classes.batch.p999_itl_ms", "P99.9 ITL (ms)"),
    Measure("classes.batch.max_itl_ms", "max ITL (ms)"),
    Measure("classes.batch.rejected", "rejected", 1, 1),
)
COST_MEASURES = (
    Measure(PEAK_KV, "peak referenced KV (GiB per GPU)", 1, 2),
    Measure("total_rotations", "rotations", 1, 1),
    Measure("total_preemptions", "preemptions", 1, 1),
    Measure("d2h_gib", "to the host (GiB per link)", 1, 1),
    Measure("h2d_gib", "from the host (GiB per link)", 1, 1),
    Measure("recomputed_tokens", "recomputed tokens"),
)
TABLES = {"chat": CHAT_MEASURES, "batch": BATCH_MEASURES, "memory": COST_MEASURES}
DECIDING = (ATTAINMENT, P99_TTFT, BATCH, PEAK_KV)
"""What claims are made about."""
REPORTED = tuple(each.key for shown in TABLES.values() for each in shown)
"""All that is shown of an arm."""
