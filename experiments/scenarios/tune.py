"""Tune the rivals for every setting: `python -m experiments.scenarios.tune`."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.scenarios.search import star_of
from experiments.scenarios.settings import CACHE, SETTINGS, full_extent
from experiments.scenarios.tuning import GRIDS, TUNED_FILE, tune, write_tuned
from experiments.studykit.options import at_least, some_of
from experiments.studykit.reading import exit_code_of
from experiments.studykit.run_cache import RunCache
from superinfer.lab.cli.terminal import say


def main() -> int:
    """Find the load of each setting, tune at it, write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.scenarios.tune", description=(__doc__ or "").split(":")[0]
    )
    parser.add_argument(
        "--only", type=some_of(SETTINGS), default=tuple(SETTINGS), help=f"of {','.join(SETTINGS)}"
    )
    parser.add_argument("--out", type=Path, default=TUNED_FILE)
    parser.add_argument(
        "--workers", type=at_least(0), default=0, help="processes (0: one per core)"
    )
    parser.add_argument(
        "--arms", type=some_of(GRIDS), default=tuple(GRIDS), help=f"of {','.join(GRIDS)}"
    )
    options = parser.parse_args()
    cache, extent = RunCache(CACHE, options.workers), full_extent(5)
    for name in options.only:
        setting = SETTINGS[name]
        rate_per_s = star_of(cache, setting, extent).rate_per_s
        if rate_per_s is None:
            say(f"{name}: no load to compare at, so nothing to tune for")
            continue
        choices = {arm: tune(cache, setting, rate_per_s, GRIDS[arm]) for arm in options.arms}
        write_tuned(options.out, name, rate_per_s, choices)
    say(f"tuned settings in {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
