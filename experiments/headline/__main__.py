"""Run the study and write `summary.json`, `results.md` and a picture of every part.

What has been run is kept in `runs/headline`, so a study that was stopped goes on from there. With
`--only`, the other parts of an earlier `summary.json` in the same folder stay as they are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.headline.plot import write_pictures
from experiments.headline.settings import FULL, STANDARD, Extent, config_of, ours_of
from experiments.headline.study import compare
from experiments.headline.table import page
from experiments.headline.tune import CACHE, tuned_of
from experiments.headline.workloads import WORKLOADS
from experiments.studykit.options import some_of, study_options
from experiments.studykit.reading import earlier_parts, exit_code_of
from experiments.studykit.record import SIMULATED, made_by, write_result
from experiments.studykit.run_cache import RunCache
from superinfer.errors import ConfigError, SuperInferError
from superinfer.lab.cli.terminal import say

RESULTS = SIMULATED / "headline"
VERSION = 1
"""Of the form of `summary.json`."""


def main() -> int:
    """Run the parts that are asked for; 1 if one of them failed."""
    options = _options()
    extent = FULL if options.full else STANDARD
    if options.seeds:
        extent = _with_seeds(extent, options.seeds)
    cache = RunCache(CACHE, options.workers)
    earlier_parts(options.out, VERSION, write)  # what cannot be kept is known before anything runs
    failed = False
    for name in options.only:
        before, started = cache.stored, time.monotonic()
        try:
            tuned = tuned_of(WORKLOADS[name])
            part = compare(cache, WORKLOADS[name], tuned, extent, options.ours)
        except SuperInferError as error:
            say(f"error: {name}: {error}")
            failed = True
            continue
        say(f"{name}: {cache.stored - before} runs in {time.monotonic() - started:.0f} s")
        part["made_by"] = _rests_on(options)
        kept = earlier_parts(options.out, VERSION, write)
        write(options.out, kept | {name: part}, part["made_by"])
    say(f"results in {options.out}")
    return int(failed)


def write(out: Path, parts: dict[str, Any], rests_on: Mapping[str, Any]) -> None:
    """The files of the result, from what is known so far."""
    ordered = {name: parts[name] for name in WORKLOADS if name in parts}
    stale = [name for name, part in ordered.items() if part["made_by"] != rests_on]
    summary = {"version": VERSION, "made_by": {**rests_on, "stale": stale}, "parts": ordered}
    write_pictures(write_result(out, summary, page), out)


# -- inside ---------------------------------------------------------------------------------------


def _options() -> argparse.Namespace:
    parser = study_options("headline", "The article's table, by simulation.", RESULTS, 0)
    parser.set_defaults(only=tuple(WORKLOADS))
    parser.add_argument("--full", action="store_true", help="more seeds and more loads")
    parser.add_argument("--only", type=some_of(WORKLOADS), help=f"of {','.join(WORKLOADS)}")
    parser.add_argument(
        "--ours",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of SuperInfer instead of its default: scheduler.paced_chunks=false",
    )
    options = parser.parse_args()
    if options.ours and options.out.resolve() == RESULTS.resolve():
        parser.error("--ours: expected another --out: the recorded results are of the defaults")
    try:
        for workload in (WORKLOADS[name] for name in options.only):
            for arm in ours_of(workload, options.ours).values():
                config_of(workload, arm, 1.0)
    except ConfigError as error:
        parser.error(f"--ours: {error}")
    return options


def _with_seeds(extent: Extent, seeds: int) -> Extent:
    """At the reference load so many, elsewhere no more."""
    return replace(
        extent,
        seeds=seeds,
        sweep_seeds=min(seeds, extent.sweep_seeds),
        search_seeds=min(seeds, extent.search_seeds),
    )


def _rests_on(options: argparse.Namespace) -> dict[str, Any]:
    """What a part's numbers rest on."""
    full = " --full" if options.full else ""
    seeds = f" --seeds {options.seeds}" if options.seeds else ""
    ours = "".join(f" --ours {setting}" for setting in options.ours)
    return made_by(f"python -m experiments.headline{full}{seeds}{ours}")


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
