"""Run the study and write `summary.json`, `results.md` and a picture.

What has been run is kept in `runs/fairness`, so a study that was stopped goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.fairness.measures import measured
from experiments.fairness.plot import write_picture
from experiments.fairness.settings import ARMS, FLOODS, config_of
from experiments.fairness.table import page
from experiments.options import study_options
from experiments.reading import exit_code_of
from experiments.record import PROFILE_70B, SIMULATED, made_by, write_result
from experiments.scenarios.bench import Bench, say

RESULTS = SIMULATED / "fairness"
CACHE = Path("runs") / "fairness"
VERSION = 1
"""Of the form of `summary.json`."""


def main() -> int:
    """Run every scheduler under every flood and write the files."""
    options = study_options(
        "fairness", "What a free tier gets beside a hostile tenant.", RESULTS, 3
    ).parse_args()
    bench = Bench(CACHE, options.workers)
    floods = {name: _measured(bench, name, range(options.seeds)) for name in FLOODS}
    command = f"python -m experiments.fairness --seeds {options.seeds}"
    write(options.out, floods, made_by(command, profile=PROFILE_70B))
    say(f"results in {options.out}")
    return 0


def write(out: Path, floods: Mapping[str, Any], rests_on: Mapping[str, Any]) -> None:
    """The files of the result."""
    summary = {"version": VERSION, "made_by": rests_on, "floods": floods}
    write_picture(write_result(out, summary, page), out)


def _measured(bench: Bench, flood: str, seeds: range) -> dict[str, Any]:
    configs = {name: config_of(arm, FLOODS[flood]) for name, arm in ARMS.items()}
    runs = bench.runs(configs, seeds, flood)
    return {name: measured(each) for name, each in runs.items()}


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
