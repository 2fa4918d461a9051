"""Run one part by its name: `python -m experiments.accuracy PART [options]`."""

from __future__ import annotations

import sys
from importlib import import_module

from experiments.studykit.reading import exit_code_of

PARTS = ("serving", "steady")


def main(arguments: list[str]) -> int:
    """Call `main` of the part that the first argument names; returns the exit code."""
    if not arguments or arguments[0] not in PARTS:
        print(f"usage: python -m experiments.accuracy {{{','.join(PARTS)}}} ...", file=sys.stderr)
        return 2
    part = import_module(f"experiments.accuracy.{arguments[0]}")
    return exit_code_of(lambda: int(part.main(arguments[1:])))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
