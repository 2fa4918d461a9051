"""`python -m experiments.documents [PAGE...]`: run the commands of the pages."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from experiments.documents.blocks import blocks, faults, pages
from experiments.documents.known import unknown
from experiments.documents.running import Outcome, run_page, shown_anew


def main() -> int:
    """Run them; exit code 1 where a page was wrong."""
    parser = argparse.ArgumentParser(prog="python -m experiments.documents", description=__doc__)
    parser.add_argument("pages", type=Path, nargs="*", metavar="PAGE", help="default: all")
    parser.add_argument("--write", action="store_true", help="show what was printed")
    options = parser.parse_args()
    wrong = 0
    for page in [path.resolve() for path in options.pages] or pages():
        found = [*faults(page), *(fault for block in blocks(page) for fault in unknown(block))]
        with tempfile.TemporaryDirectory() as folder:
            outcomes = list(run_page(page, Path(folder)))
        for outcome in outcomes:
            found += outcome.faults
        if options.write:
            _write(page, outcomes)
        for fault in found:
            print(fault, file=sys.stderr)
        print(f"{page.name}: {len(outcomes)} blocks run, {len(found)} faults", file=sys.stderr)
        wrong += len(found)
    return int(wrong > 0)


def _write(page: Path, outcomes: list[Outcome]) -> None:
    """Put what was printed into the page, but where a command failed: from the end, so that the
    numbers of the lines before stay right.
    """
    lines = page.read_text(encoding="utf-8").splitlines()
    for outcome in reversed(outcomes):
        if outcome.block.language == "console" and not outcome.failed:
            first = outcome.block.line
            lines[first : first + len(outcome.block.lines)] = shown_anew(outcome)
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
