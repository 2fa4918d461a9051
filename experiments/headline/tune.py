"""Tune the rivals for every part and write `experiments/headline/tuned.toml`.

    python -m experiments.headline.tune

Those of `70b` are tuned already (`experiments/tuned.toml`, the setting `article`).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from experiments.headline.measures import ATTAINMENT, TOKENS, with_numbers
from experiments.headline.settings import (
    SGLANG_TUNED,
    STANDARD,
    TRT_TUNED,
    TUNED_ARMS,
    VLLM_TUNED,
    Extent,
    config_of,
)
from experiments.headline.study import reference_load
from experiments.headline.workloads import HERE, WORKLOADS, Workload
from experiments.scenarios.arms import Arm
from experiments.scenarios.tuning import (
    SEEDS,
    Reached,
    arms_in,
    best_of,
    sglang_grid,
    tensorrt_llm_grid,
    tuned_arms,
    vllm_grid,
    write_tables,
)
from experiments.studykit.options import at_least, some_of
from experiments.studykit.reading import exit_code_of, read_toml
from experiments.studykit.run_cache import RunCache
from superinfer.lab.cli.terminal import say
from superinfer.lab.results import Run

FILE = HERE / "tuned.toml"
CACHE = Path("runs") / "headline"
ELSEWHERE = {"70b": "article"}
"""Parts whose rivals the study of the scenarios has tuned."""
GRIDS: Mapping[str, Sequence[Arm]] = {
    VLLM_TUNED: list(vllm_grid((384, 512, 2048), (256,))),
    TRT_TUNED: list(tensorrt_llm_grid((384, 2048, 8192), (256,))),
    SGLANG_TUNED: list(sglang_grid((512, 2048, 8192), (0.3, 1.0))),
}
"""Smaller than those of the scenarios."""
_HEAD = """\
# Settings of the tuned arms, by part. `python -m experiments.headline.tune` writes this file. Each
# is the best of a grid at the reference load, on seeds of its own: most attainment (in whole
# points), then most output tokens/s; all candidates on the first seed, the best two on all.
# Simulated.
"""


def main() -> int:
    """Tune the parts that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m experiments.headline.tune")
    names = [name for name in WORKLOADS if name not in ELSEWHERE]
    parser.add_argument("--only", type=some_of(names), default=names, help=f"of {','.join(names)}")
    parser.add_argument(
        "--workers", type=at_least(0), default=0, help="processes (0: one per core)"
    )
    options = parser.parse_args()
    cache = RunCache(CACHE, options.workers)
    for name in options.only:
        tune_part(cache, WORKLOADS[name], STANDARD, FILE)
    return 0


def tune_part(
    cache: RunCache,
    workload: Workload,
    extent: Extent,
    path: Path,
    grids: Mapping[str, Sequence[Arm]] = GRIDS,
    seeds: Sequence[int] = SEEDS[:3],
) -> None:
    """Tune all rivals of a part and put them into the file; all other parts stay."""
    load = reference_load(cache, workload, extent).load
    tables = read_toml(path) if path.exists() else {}
    tables[workload.name] = {"load": round(load, 6), "seeds": list(seeds)}
    for name, grid in grids.items():
        arm, reached = best_of(grid, partial(_tried, cache, workload, extent, load), seeds)
        tables[workload.name][name] = {
            "scheduler": arm.scheduler,
            "settings": list(arm.settings),
            "attainment": round(reached[0], 4),
            "tokens_per_s": round(reached[1], 1),
        }
        say(f"{workload.name}: {name}: {arm.settings}: {reached}")
    write_tables(path, _HEAD, tables)


def tuned_of(workload: Workload, path: Path = FILE) -> dict[str, Arm]:
    """The tuned rivals of a part; ConfigError if it was never tuned."""
    if workload.name in ELSEWHERE:
        known = tuned_arms(ELSEWHERE[workload.name])
        return {name: known[name] for name in TUNED_ARMS}
    return arms_in(path, workload.name, TUNED_ARMS, "python -m experiments.headline.tune")


# -- inside ---------------------------------------------------------------------------------------


def _tried(
    cache: RunCache,
    workload: Workload,
    extent: Extent,
    load: float,
    grid: Sequence[Arm],
    seeds: Sequence[int],
) -> list[Reached]:
    configs = {str(place): config_of(workload, arm, load, extent) for place, arm in enumerate(grid)}
    runs = cache.runs(configs, seeds, f"{workload.name}: tuning {grid[0].scheduler}")
    return [_reached(workload, runs[name]) for name in configs]


def _reached(workload: Workload, runs: Sequence[Run]) -> Reached:
    """Means of attainment and tokens/s over the seeds."""
    told = [with_numbers(workload, run).summary for run in runs]
    attainment, tokens = (
        sum(float(each[key] or 0.0) for each in told) / len(told)
        for key in (ATTAINMENT.key, TOKENS.key)
    )
    return attainment, tokens


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
