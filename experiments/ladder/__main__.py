"""Climb the ladder and write `summary.json`, `results.md` and a picture.

What has been run is kept in `runs/ladder`, so a study that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from experiments.ladder.plot import write_picture
from experiments.ladder.settings import SCENARIOS, config_at, first_rungs, further_rungs
from experiments.ladder.table import REPORTED, page
from experiments.scenarios.arms import Arm
from experiments.scenarios.bench import Bench, Runs, say
from experiments.scenarios.measures import BATCH, DECIDING, numbers_of, paired
from experiments.scenarios.settings import SETTINGS
from superinfer.lab.content import code_hash
from superinfer.lab.numbers import mean_number
from superinfer.lab.results import replacing, summary_json

SIMULATED = Path(__file__).parents[1] / "results" / "simulated"
RESULTS = SIMULATED / "ladder"
LOADS = SIMULATED / "scenarios" / "summary.json"
"""Where the study of the scenarios says at which load it compares."""
CACHE = Path("runs") / "ladder"
VERSION = 1
"""Of the form of `summary.json`."""


def main() -> int:
    """Climb in every scenario and write the files."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.ladder", description="What each mechanism is worth."
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="processes (0: one per core)")
    options = parser.parse_args()
    bench = Bench(CACHE, options.workers)
    rates = loads()
    found = {name: climb(bench, name, rates[name], range(options.seeds)) for name in SCENARIOS}
    write(options.out, found, _made_by(options.seeds))
    say(f"results in {options.out}")
    return 0


def loads() -> dict[str, float]:
    """Chat requests/s at which the study of the scenarios compares its arms."""
    parts = json.loads(LOADS.read_text(encoding="utf-8"))["parts"]
    return {name: parts[name]["star"]["rate_per_s"] for name in SCENARIOS}


def climb(bench: Bench, scenario: str, rate_per_s: float, seeds: Sequence[int]) -> dict[str, Any]:
    """Every rung, and how it differs from the one below."""

    def run(arms: Mapping[str, Arm]) -> Runs:
        configs = {name: config_at(scenario, arm, rate_per_s) for name, arm in arms.items()}
        return bench.runs(configs, seeds, f"{scenario}: {len(arms)} rungs")

    fixed = run({arm.label: arm for arm in first_rungs().values()})
    first = max(fixed, key=lambda name: _batch(fixed, name))
    runs = {first: fixed[first]} | run({arm.label: arm for arm in further_rungs()})
    names = list(runs)
    return {
        "title": SETTINGS[scenario].title,
        "rate_per_s": rate_per_s,
        "fixed_chunks": {name: numbers_of(each, REPORTED) for name, each in fixed.items()},
        "rungs": {name: numbers_of(each, REPORTED) for name, each in runs.items()},
        "steps": {
            name: paired({below: runs[below], name: runs[name]}, below, DECIDING)[name]
            for below, name in pairwise(names)
        },
        "whole": paired({first: runs[first], names[-1]: runs[names[-1]]}, first)[names[-1]],
    }


def write(out: Path, found: Mapping[str, Any], made_by: Mapping[str, Any]) -> None:
    """The files of the result."""
    summary = {"version": VERSION, "kind": "simulated", "made_by": made_by, "scenarios": found}
    text = summary_json(summary)
    for name, content in (("summary.json", text + "\n"), ("results.md", page(json.loads(text)))):
        with replacing(out / name) as staged:
            staged.write_text(content, encoding="utf-8")
    write_picture(json.loads(text), out)


def _batch(runs: Runs, name: str) -> float:
    return mean_number([run.summary for run in runs[name]], BATCH) or 0.0


def _made_by(seeds: int) -> dict[str, Any]:
    """What the numbers rest on."""
    names = ("superinfer", "numpy", "simpy")
    return {
        "command": f"python -m experiments.ladder --seeds {seeds}",
        "versions": {
            **{name: version(name) for name in names},
            "Python": platform.python_version(),
        },
        "source": code_hash(("superinfer", "sim", "traces"))[:12],
        "profile": "a100-80g_llama-3.1-70b_tp4",
    }


if __name__ == "__main__":
    raise SystemExit(main())
