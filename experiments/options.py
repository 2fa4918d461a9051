"""The options that all studies of many runs have."""

from __future__ import annotations

import argparse
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def study_options(study: str, about: str, out: Path, seeds: int) -> argparse.ArgumentParser:
    """A parser of `--out`, `--seeds` and `--workers` with a study's own defaults."""
    shown = out.relative_to(_ROOT).as_posix() if out.is_relative_to(_ROOT) else out.as_posix()
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{study}", description=about)
    parser.add_argument(
        "--out", type=Path, default=out, help=f"folder for the results (default {shown})"
    )
    parser.add_argument("--seeds", type=int, default=seeds, help=f"default {seeds}")
    parser.add_argument("--workers", type=int, default=0, help="processes (0: one per core)")
    return parser
