"""What README and docs show of the bundled traces: `python -m experiments.sample`.

Runs `superinfer-sim compare traces/samples/mixed.jsonl`, four schedulers, and keeps what it found,
without times of the machine, in `experiments/results/simulated/sample/` and the picture in
`docs/images/`; so also the picture of the requests that docs/scheduler.md explains. All of it is
simulated; some ten seconds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments.studykit.record import SIMULATED, made_by, write_summary

ROOT = Path(__file__).parents[1]
RESULT = SIMULATED / "sample" / "summary.json"
IMAGES = ROOT / "docs" / "images"
COMMAND = "superinfer-sim compare traces/samples/mixed.jsonl"
ROTATION = "superinfer-sim run traces/samples/rotation.jsonl --set run.kv_blocks=140 --timeline"
KEPT = (
    "submitted",
    "slo_attainment",
    "ttft_attainment",
    "tpot_attainment",
    "median_ttft_ms",
    "p99_ttft_ms",
    "p99_tpot_ms",
    "p99_itl_ms",
    "p99_e2el_ms",
    "output_throughput",
)
"""Of each arm's summary."""


def main() -> int:
    """Run it and write the files."""
    argparse.ArgumentParser(prog="python -m experiments.sample", description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compared, rotated = Path(folder) / "compare", Path(folder) / "run"
        _simulate(COMMAND, compared)
        comparison = json.loads((compared / "comparison.json").read_text(encoding="utf-8"))
        write(comparison, RESULT)
        shutil.copyfile(compared / "compare.png", IMAGES / "compare.png")
        _simulate(ROTATION, rotated)
        shutil.copyfile(rotated / "requests.png", IMAGES / "rotation.png")
    return 0


def _simulate(command: str, out: Path) -> None:
    arguments = [*command.split()[1:], "--out", str(out)]
    subprocess.run([sys.executable, "-m", "sim", *arguments], cwd=ROOT, check=True)


def write(comparison: dict[str, Any], path: Path) -> None:
    """Keep what the README shows of a `comparison.json`."""
    arms = {name: _kept(runs[0]["summary"]) for name, runs in comparison["arms"].items()}
    write_summary(path, {"kind": "simulated", "made_by": made_by(COMMAND), "arms": arms})


def _kept(summary: dict[str, Any]) -> dict[str, Any]:
    outside = summary["trust"]["extrapolated_share"]
    return {**{key: summary[key] for key in KEPT}, "extrapolated_share": outside}


if __name__ == "__main__":
    raise SystemExit(main())
