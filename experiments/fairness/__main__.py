"""Run the study and write `summary.json`, `results.md` and a picture.

What has been run is kept in `runs/fairness`, so a study that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiments.fairness.measures import measured
from experiments.fairness.plot import write_picture
from experiments.fairness.settings import ARMS, FLOODS, config_of
from experiments.fairness.table import page
from experiments.scenarios.bench import Bench, say
from superinfer.lab.content import code_hash
from superinfer.lab.results import replacing, summary_json

RESULTS = Path(__file__).parents[1] / "results" / "simulated" / "fairness"
CACHE = Path("runs") / "fairness"
PROFILE = "a100-80g_llama-3.1-70b_tp4"
VERSION = 1
"""Of the form of `summary.json`."""


def main() -> int:
    """Run every scheduler under every flood and write the files."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.fairness",
        description="What a free tier gets beside a hostile tenant.",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="processes (0: one per core)")
    options = parser.parse_args()
    bench = Bench(CACHE, options.workers)
    floods = {name: _measured(bench, name, range(options.seeds)) for name in FLOODS}
    write(options.out, floods, _made_by(options.seeds))
    say(f"results in {options.out}")
    return 0


def write(out: Path, floods: Mapping[str, Any], made_by: Mapping[str, Any]) -> None:
    """The files of the result."""
    summary = {"version": VERSION, "kind": "simulated", "made_by": made_by, "floods": floods}
    text = summary_json(summary)
    for name, content in (("summary.json", text + "\n"), ("results.md", page(json.loads(text)))):
        with replacing(out / name) as staged:
            staged.write_text(content, encoding="utf-8")
    write_picture(json.loads(text), out)


def _measured(bench: Bench, flood: str, seeds: range) -> dict[str, Any]:
    configs = {name: config_of(arm, FLOODS[flood]) for name, arm in ARMS.items()}
    runs = bench.runs(configs, seeds, flood)
    return {name: measured(each) for name, each in runs.items()}


def _made_by(seeds: int) -> dict[str, Any]:
    """What the numbers rest on."""
    names = ("superinfer", "numpy", "simpy")
    return {
        "command": f"python -m experiments.fairness --seeds {seeds}",
        "versions": {
            **{name: version(name) for name in names},
            "Python": platform.python_version(),
        },
        "source": code_hash(("superinfer", "sim", "traces"))[:12],
        "profile": PROFILE,
    }


if __name__ == "__main__":
    raise SystemExit(main())
