"""What the scenarios M and C have left for batch work, and what twice the memory would add:
`python -m experiments.scenario_blocks`, a minute. Simulated, seed 0.

Batch output tokens/s of four arms, each with the scenario's KV blocks and with twice as many. The
result goes to `experiments/results/simulated/scenario-blocks/summary.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from experiments.studykit.reading import exit_code_of
from experiments.studykit.record import PROFILE_70B, SIMULATED, made_by, write_summary
from sim.run import run_simulation
from sim.workload import load_workload
from superinfer.lab.config import load_config
from superinfer.metrics import RunMetrics
from superinfer.metrics.window import Window

RESULT = SIMULATED / "scenario-blocks" / "summary.json"
ARMS: dict[str, tuple[str, ...]] = {
    "priority": ("run.scheduler=priority",),
    "vllm": ("run.scheduler=vllm",),
    "vllm, prefill first": ("run.scheduler=vllm", "scheduler.chunked=false"),
    "fcfs": ("run.scheduler=fcfs",),
}
SCENARIOS = ("scenario-m", "scenario-c")


def main() -> int:
    """Run all of them and write the file."""
    parser = argparse.ArgumentParser(prog="python -m experiments.scenario_blocks")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--duration", type=float, default=900.0, help="seconds (default 900)")
    options = parser.parse_args()
    found = {
        arm: {name: measured(name, settings, options.duration) for name in SCENARIOS}
        for arm, settings in ARMS.items()
    }
    rests_on = made_by("python -m experiments.scenario_blocks", profile=PROFILE_70B)
    summary = {"kind": "simulated", "made_by": rests_on, "arms": found}
    write_summary(options.out, summary)
    return 0


def measured(scenario: str, settings: tuple[str, ...], duration_s: float) -> dict[str, Any]:
    """Blocks, and batch output tokens/s with as many and with twice as many."""
    blocks, plain = _run(scenario, settings, duration_s)
    _, doubled = _run(scenario, (*settings, f"run.kv_blocks={2 * blocks}"), duration_s)
    return {"kv_blocks": blocks, "batch_tokens_per_s": plain, "with_twice_the_blocks": doubled}


# -- inside ---------------------------------------------------------------------------------------


def _run(scenario: str, settings: tuple[str, ...], duration_s: float) -> tuple[int, float]:
    """Device blocks, and batch output tokens/s inside the scenario's window."""
    scaled = [f"run.duration_s={duration_s}"]
    scaled.append(f"run.window_s=[{duration_s * 2 / 9}, {duration_s * 8 / 9}]")
    config = load_config(Path(scenario), [*settings, *scaled])
    record = run_simulation(config, load_workload(config)).record
    start_s, end_s = config.run.window_s
    metrics = RunMetrics(record, Window(start_s, end_s))
    batch = metrics.group(metrics.class_rows()["batch"])
    return record.total_blocks, batch["output_throughput"]


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
