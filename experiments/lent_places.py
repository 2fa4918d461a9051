"""Whether a class that bears more is worse off: `python -m experiments.lent_places`, a minute.

400 requests of one class (TTFT <= 1 s, TPOT <= 50 ms), Llama-3.1-8B on an A100-80G, few blocks.
Streams that bear no longer gap than their pace never leave for others. Those that do lend their
places, and where more is owed than given none of them would get one back in time. What is found
goes to `experiments/results/simulated/lent-places/summary.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.studykit.measures import numbers_of
from experiments.studykit.options import study_options
from experiments.studykit.reading import exit_code_of
from experiments.studykit.record import SIMULATED, made_by, write_summary
from experiments.studykit.run_cache import RunCache
from superinfer.lab.config import Config, load_config

SPEC = Path(__file__).with_suffix(".toml")
RESULTS = SIMULATED / "lent-places"
REQUESTS, RATE_PER_S = 400, 8.0
"""The rate is that of a load of 1."""
TARGETS = (
    "classes.stream.ttft_ms=1000",
    "classes.stream.tpot_ms=50",
    "classes.stream.max_tokens=512",
)
TREATMENTS: dict[str, tuple[str, ...]] = {
    "max_stall_ms=50": ("classes.stream.max_stall_ms=50",),
    "none stated": (),
    "max_stall_ms=1000": ("classes.stream.max_stall_ms=1000",),
    'delivery = "paced"': ('classes.stream.delivery="paced"',),
}
PLACES = ((700, 0.4), (700, 0.6), (1500, 1.0))
"""KV blocks, and load."""
MEASURES = ("slo_attainment", "paced_attainment", "total_rotations")


def main() -> int:
    """Make all runs and write the file."""
    options = _options()
    cache, seeds = RunCache(Path("runs") / "lent-places", options.workers), range(options.seeds)
    rows = [row(cache, seeds, blocks, load) for blocks, load in PLACES]
    command = f"python -m experiments.lent_places --seeds {options.seeds}"
    summary = {"kind": "simulated", "made_by": made_by(command), "rows": rows}
    write_summary(options.out / "summary.json", summary)
    return 0


def row(cache: RunCache, seeds: Sequence[int], blocks: int, load: float) -> dict[str, Any]:
    """All treatments of the class at one load, with so much memory."""
    configs = {name: config_of(treatment, blocks, load) for name, treatment in TREATMENTS.items()}
    runs = cache.runs(configs, seeds, f"{blocks} blocks, load {load:g}")
    found = {name: numbers_of(runs[name], MEASURES) for name in TREATMENTS}
    return {"kv_blocks": blocks, "load": load, "treatments": found}


def config_of(treatment: Sequence[str], blocks: int, load: float) -> Config:
    """The run of a treatment."""
    rate = f"workload.clients.stream.rate_per_s={RATE_PER_S * load!r}"
    given = [f"run.kv_blocks={blocks}", f"run.limit={REQUESTS}", rate, *TARGETS, *treatment]
    return load_config(None, given, trace=str(SPEC))


def _options() -> argparse.Namespace:
    about = "Ask whether a class that bears more is worse off."
    return study_options("lent_places", about, RESULTS, 5).parse_args()


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
