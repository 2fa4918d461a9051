"""A real run of vLLM, simulated, and how far apart the two are.

    python -m experiments.accuracy serving [--run DIR --workload FILE] [--costs FILE] [--out DIR]
    python -m experiments.accuracy serving --without attention_uneven
    python -m experiments.accuracy serving --fit

Without `--run` it is the run under `validation/llmservingsim_bench` of the data folder. The
settings come from the run's `meta.json`, the arrivals from its stamps. TTFT and E2E count from when
the engine takes a request in, as the run's own summary has it. `--without` leaves kernels that a
profile need not have, `graphs` or `chunked_s` out of the shipped one; `--out` writes the files of
`results/simulated/accuracy/serving`, with the runs that lack one part each. `--fit` measures the
one constant that is fitted to a run, `host.chunked_s`. What it means: docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from experiments.accuracy import steps
from experiments.accuracy.bench_run import BenchRun, read_run
from experiments.accuracy.compare import Comparison, compare, recorded, run_config
from experiments.accuracy.serving_page import draw, page, tables
from experiments.studykit.reading import data_folder
from experiments.studykit.record import made_by, write_result
from superinfer.costs import (
    DEFAULT_HOST,
    StepCost,
    build_cost,
    list_profiles,
    load_profile,
    write_profile,
)
from superinfer.costs.shapes import canonical_name
from superinfer.errors import ConfigError

BENCH = Path("validation", "llmservingsim_bench")
RUN = BENCH / "RTXPRO6000" / "Llama-3.1-8B"
WORKLOAD = BENCH / "workload_sharegpt-llama-3.1-8b-300-sps10.nocontent.jsonl.gz"
DEVICES = {"RTXPRO6000": "rtxpro6000"}
VERSION = 1
UNEVEN = ("attention_uneven", "attention_busy")
MIXED = ("attention_mixed_16", "attention_idle")
LEFT_OUT = {
    "nothing": (),
    "time per step with chunks (`chunked_s`)": ("chunked_s",),
    "unequal contexts (`attention_uneven`, `attention_busy`)": UNEVEN,
    "sizes of graphs (`graphs`)": ("graphs",),
    "attention that serves both (`attention_mixed_16`, `attention_idle`)": MIXED,
    "all of these": ("chunked_s", *UNEVEN, "graphs", *MIXED),
}
"""What a profile need not have, in words; all from the tables but `chunked_s`."""


def main(arguments: list[str]) -> int:
    """Print the tables, or with `--out` write them, the figures as JSON and the picture."""
    options = _parser().parse_args(arguments)
    folder = options.run or options.data / RUN
    run = read_run(folder, options.workload or options.data / WORKLOAD)
    device = options.device or DEVICES.get(folder.resolve().parent.name, "rtxpro6000")
    with TemporaryDirectory() as scratch:
        costs = options.costs
        if options.without:
            costs = without(run, device, options.without, Path(scratch) / "profile.json")
        config = run_config(run, device, costs)
        cost = build_cost(config.run.model, device, config.run.tp, costs)
        if options.fit:
            return _fit(run, cost)
        summary = recorded(compare(run, config)) | {"steps": steps.recorded(run, cost)}
        if not options.out:
            sys.stdout.write(tables(summary))
            return 0
        summary["left_out"] = list(_left_out(run, device, Path(scratch)))
    command = "python -m experiments.accuracy serving --out DIR"
    summary |= {"version": VERSION, "made_by": made_by(command)}
    read = write_result(options.out, summary, page)
    if read["states"]:
        draw(read, options.out / "serving.png")
    sys.stdout.write(tables(read))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.accuracy serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument("--run", type=Path)
    parser.add_argument("--workload", type=Path)
    parser.add_argument("--device", help="default: by the name of the folder above the run's")
    parser.add_argument("--costs", default="auto")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--without", nargs="+", default=(), metavar="PART")
    parser.add_argument("--fit", action="store_true")
    return parser


def _fit(run: BenchRun, cost: StepCost) -> int:
    samples = 1e3 * np.array([step.beyond_s for step in steps.chunked_steps(run, cost)])
    if len(samples) < 2:
        raise ConfigError("--fit: expected steps in which one prompt came in alone, found too few")
    print(
        f"{len(samples)} steps took {np.median(samples):.2f} ms beyond their kernels (median, "
        f"standard error {steps.median_error(samples):.2f}; mean {samples.mean():.2f}); the "
        f"profile has {1e3 * cost.host.chunked_s:g} ms"
    )
    return 0


# -- parts left out -------------------------------------------------------------------------------


def _left_out(run: BenchRun, device: str, scratch: Path) -> Iterator[dict[str, Any]]:
    """Errors of the run with the shipped profile, and with one that lacks a part of it."""
    for words, parts in LEFT_OUT.items():
        costs = without(run, device, parts, scratch / "part.json") if parts else "auto"
        found = compare(run, run_config(run, device, costs))
        yield {"words": words, "parts": list(parts), "errors": _errors(found)}


def _errors(found: Comparison) -> dict[str, float]:
    return {f"{line.metric} {line.statistic}": line.error for line in found.lines}


def without(run: BenchRun, device: str, names: Sequence[str], path: Path) -> str:
    """The shipped profile without some of its parts, written to `path`."""
    wanted = (device, canonical_name(run.meta["model"]))
    shipped = next((each.path for each in list_profiles() if each[:2] == wanted), None)
    if shipped is None:
        raise ConfigError(f"--without: expected a shipped profile of {' and '.join(wanted)}")
    profile = load_profile(shipped)
    known = {"chunked_s", *(["graphs"] if profile.graphs else []), *profile.kernels}
    if not known.issuperset(names):
        raise ConfigError(f"--without: expected some of {', '.join(sorted(known))}")
    kernels = {name: kernel for name, kernel in profile.kernels.items() if name not in names}
    host, graphs = profile.host, profile.graphs
    if "chunked_s" in names:
        host = replace(host, chunked_s=0.0, origin=DEFAULT_HOST.origin)
    if "graphs" in names:
        graphs = None
    write_profile(replace(profile, kernels=kernels, host=host, graphs=graphs), path)
    return str(path)
