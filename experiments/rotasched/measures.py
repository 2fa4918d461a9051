"""The numbers of a run that the study reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from experiments.rotasched.settings import MAX_STALL_S, TBT_S, TIGHT_TTFT_S, TTFT_S
from experiments.studykit.measures import Measure, Numbers, numbers_of
from superinfer.lab.results import Run

TTFT = Measure("ttft_share", f"TTFT <= {TTFT_S:g} s (%)", 100, 1)
TIGHT_TTFT = Measure("tight_ttft_share", f"TTFT <= {TIGHT_TTFT_S:g} s (%)", 100, 1)
TPOT = Measure("tpot_share", f"TPOT <= {1e3 * TBT_S:g} ms (%)", 100, 1)
BOTH = Measure("slo_attainment", f"both of {TTFT_S:g} s and {1e3 * TBT_S:g} ms (%)", 100, 1)
LONG = Measure("long_gap_share", f"a gap > {MAX_STALL_S:g} s (%)", 100, 1)
GAP = Measure("p99_itl_ms", "P99 gap (ms)")
THROUGHPUT = Measure("output_throughput", "tokens/s")
MEASURES = (
    TTFT,
    TIGHT_TTFT,
    TPOT,
    BOTH,
    GAP,
    LONG,
    Measure("max_itl_ms", "longest gap (s)", 1e-3, 1),
    THROUGHPUT,
    Measure("rotations", "rotations per request", 1, 1),
    Measure("h2d_gb_per_s", "from the host (GB/s)", 1, 1),
)


def measured(runs: Sequence[Run]) -> dict[str, Numbers]:
    """Mean, values by seed and interval of every measure."""
    return numbers_of([with_shares(run) for run in runs], [each.key for each in MEASURES])


def with_shares(run: Run) -> Run:
    """The run with shares of all its requests in its summary; who has no time has missed it. A
    request of one token has no time per token, and has kept it.
    """
    requests, summary = run.requests, run.summary
    tpot_ms = requests["tpot_ms"].fillna(0.0)
    finished = requests["state"] == "finished"
    shares = {
        "ttft_share": float((requests["ttft_ms"] <= 1e3 * TTFT_S).mean()),
        "tight_ttft_share": float((requests["ttft_ms"] <= 1e3 * TIGHT_TTFT_S).mean()),
        "tpot_share": float((finished & (tpot_ms <= 1e3 * TBT_S)).mean()),
        "long_gap_share": float((requests["max_itl_ms"] > 1e3 * MAX_STALL_S).mean()),
        "rotations": float(requests["rotations"].mean()),
        "h2d_gb_per_s": float(requests["h2d_bytes"].sum()) / 1e9 / summary["duration"],
    }
    return replace(run, summary=dict(summary) | shares)
