"""Run the study and write `summary.json`, `results.md` and pictures.

What has been run is kept in `runs/scenarios`, so a study that was stopped goes on from there. With
`--only`, the other parts of an earlier `summary.json` in the same folder stay as they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.scenarios.comparison import Part, compare_setting
from experiments.scenarios.extras import without_slo, wrong_slo
from experiments.scenarios.plot import write_pictures
from experiments.scenarios.settings import CACHE, SETTINGS, Extent, full_extent, quick_extent
from experiments.scenarios.table import page
from experiments.studykit.options import some_of, study_options
from experiments.studykit.reading import earlier_parts, exit_code_of
from experiments.studykit.record import PROFILE_70B, SIMULATED, made_by, write_result
from experiments.studykit.run_cache import RunCache
from superinfer.errors import SuperInferError
from superinfer.lab.cli.terminal import say

RESULTS = SIMULATED / "scenarios"
QUICK_RESULTS = Path("runs") / "scenarios-quick"
VERSION = 2
"""Of the form of `summary.json`."""
PARTS = (*SETTINGS, "no-slo", "wrong-slo")


def main() -> int:
    """Run the parts that are asked for; 1 if one of them failed."""
    options = _options()
    extent = (full_extent if options.full else quick_extent)(options.seeds)
    out = options.out or (RESULTS if options.full else QUICK_RESULTS)
    cache = RunCache(CACHE, options.workers)
    before, found, failed = cache.stored, earlier_parts(out, VERSION, _write), False
    for name in options.only:
        try:
            part = _runner(name)(cache, extent)
        except SuperInferError as error:
            say(f"error: {name}: {error}")
            failed = True
            continue
        found[name] = part | {"made_by": _rests_on(options)}
        _write(out, {name: found[name] for name in PARTS if name in found}, _rests_on(options))
    say(f"{cache.stored - before} runs were made; results in {out}")
    return int(failed)


def _options() -> argparse.Namespace:
    about = "Decide whether the rotating scheduler is worth having."
    parser = study_options("scenarios", about, RESULTS, 5)
    parser.set_defaults(out=None)  # without --full it is another one
    parser.add_argument("--full", action="store_true", help="all seeds and points: half an hour")
    parser.add_argument("--only", type=some_of(PARTS), default=PARTS, help=f"of {','.join(PARTS)}")
    return parser.parse_args()


def _runner(name: str) -> Callable[[RunCache, Extent], Part]:
    if name == "no-slo":
        return without_slo
    if name == "wrong-slo":
        return wrong_slo
    return lambda cache, extent: compare_setting(cache, SETTINGS[name], extent)


def _rests_on(options: argparse.Namespace) -> dict[str, Any]:
    """What a part's numbers rest on."""
    full = " --full" if options.full else ""
    command = f"python -m experiments.scenarios --seeds {options.seeds}{full}"
    return made_by(command, quick=not options.full, profile=PROFILE_70B)


def _write(out: Path, parts: dict[str, Any], rests_on: Mapping[str, Any]) -> None:
    """The files of the result, from what is known so far."""
    stale = [name for name, part in parts.items() if part["made_by"] != rests_on]
    summary = {"version": VERSION, "made_by": {**rests_on, "stale": stale}, "parts": parts}
    write_pictures(write_result(out, summary, page), out)


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
