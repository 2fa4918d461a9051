"""The options that all studies of many runs have."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from pathlib import Path

from superinfer.errors import InputError
from superinfer.outputs import check_writable

_ROOT = Path(__file__).parents[2]


def study_options(study: str, about: str, out: Path, seeds: int) -> argparse.ArgumentParser:
    """A parser of `--out`, `--seeds` and `--workers` with a study's own defaults; with 0 for
    `seeds` the number is that of the study's extent.
    """
    extent = "as many as the extent says"
    shown = out.relative_to(_ROOT).as_posix() if out.is_relative_to(_ROOT) else out.as_posix()
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{study}", description=about)
    parser.add_argument(
        "--out", type=folder, default=out, help=f"folder for the results (default {shown})"
    )
    least = at_least(1 if seeds else 0)
    parser.add_argument("--seeds", type=least, default=seeds, help=f"default {seeds or extent}")
    parser.add_argument(
        "--workers", type=at_least(0), default=0, help="processes (0: one per core)"
    )
    return parser


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            expected = f"expected a whole number of at least {least}, got {text!r}"
            raise argparse.ArgumentTypeError(expected)
        return value

    return number


def some_of(names: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """The type of an option that is a list of names with commas, in the order of `names`."""

    def chosen(text: str) -> tuple[str, ...]:
        wanted = text.split(",")
        if unknown := [name for name in wanted if name not in names]:
            expected = f"expected some of {', '.join(names)}, got {unknown[0]!r}"
            raise argparse.ArgumentTypeError(expected)
        return tuple(name for name in names if name in wanted)

    return chosen


def folder(text: str) -> Path:
    """The type of an option that is a folder of results: one that can be written."""
    try:
        check_writable(Path(text))
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)
