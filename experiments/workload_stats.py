"""What the bundled specifications draw: `python -m experiments.workload_stats`, half a minute.

Each is drawn with twenty seeds; means over them, and the deviation between them, go to
`experiments/results/simulated/workloads/summary.json`. Nothing is simulated but the clients.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.studykit.reading import exit_code_of
from experiments.studykit.record import SIMULATED, made_by, write_summary
from sim.workload import load_workload
from superinfer.lab.config import load_config
from traces.stats import trace_stats
from traces.workload import Workload

RESULT = SIMULATED / "workloads" / "summary.json"
SPECS = ("chat", "agent", "code", "batch", "video", "mixed", "scenario-m")
"""`scenario-c` draws what `scenario-m` does."""
LENGTHS = ("mean", "p50", "p99")


def main() -> int:
    """Draw all of them and write the file."""
    parser = argparse.ArgumentParser(prog="python -m experiments.workload_stats")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    found = {spec: described(spec, options.seeds) for spec in SPECS}
    command = f"python -m experiments.workload_stats --seeds {options.seeds}"
    summary = {"kind": "drawn", "made_by": made_by(command), "specifications": found}
    write_summary(options.out, summary)
    return 0


def described(spec: str, seeds: int) -> dict[str, Any]:
    """Means over the seeds of what a specification draws."""
    drawn = [_draw(spec, seed) for seed in range(seeds)]
    rows = [trace_stats(workload) for workload in drawn]
    counts = [row["requests"] for row in rows]
    chat = [_chat_per_s(workload) for workload in drawn]
    return {
        "requests": float(np.mean(counts)),
        "requests_deviation": float(np.std(counts, ddof=1)) if seeds > 1 else None,
        "rate_per_s": _mean([row["rate_per_s"] for row in rows]),
        "chat_per_s": float(np.mean(chat)),
        "prompt_tokens": _lengths(rows, "prompt_tokens"),
        "output_tokens": _lengths(rows, "output_tokens"),
        "prefix_hit_rate": _mean([row["prefix_hit_rate"] for row in rows]),
    }


# -- inside ---------------------------------------------------------------------------------------


def _draw(spec: str, seed: int) -> Workload:
    return load_workload(load_config(None, [f"run.seed={seed}"], trace=spec))


def _chat_per_s(workload: Workload) -> float:
    """Chat requests over the span of their arrivals."""
    arrivals_s = [each.arrival_s for each in workload.requests if each.slo_class.name == "chat"]
    return len(arrivals_s) / (arrivals_s[-1] - arrivals_s[0]) if len(arrivals_s) > 1 else 0.0


def _lengths(rows: list[dict[str, Any]], key: str) -> Mapping[str, float | None]:
    return {each: _mean([row[key][each] for row in rows]) for each in LENGTHS}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
