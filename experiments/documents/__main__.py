"""`python -m experiments.documents [PAGE...]`: run the commands of the pages."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from experiments.documents.blocks import blocks, faults, pages
from experiments.documents.known import unknown
from experiments.documents.running import Outcome, run_page, shown_anew


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them and say at the end what is wrong, if written what is left; then exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m experiments.documents", description=__doc__)
    parser.add_argument("pages", type=_page, nargs="*", metavar="PAGE", help="default: all")
    parser.add_argument("--write", action="store_true", help="show what was printed")
    options = parser.parse_args(arguments)
    wrong: list[str] = []
    for page in options.pages or pages():
        wrong += _faults_of(page, options.write)
    for fault in wrong:
        print(fault, file=sys.stderr)
    left = " left" if options.write else ""
    print(f"{len(wrong)} faults{left}", file=sys.stderr)
    return int(bool(wrong))


def _page(text: str) -> Path:
    """A page that is there, wherever one stands."""
    path = Path(text).resolve()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"expected a page, got no such file as {text!r}")
    return path


def _faults_of(page: Path, write: bool) -> list[str]:
    """What is wrong with a page; if it was written, what that has not mended."""
    found = [*faults(page), *(fault for block in blocks(page) for fault in unknown(block))]
    with tempfile.TemporaryDirectory() as folder:
        outcomes = list(run_page(page, Path(folder)))
    if write:
        _write(page, outcomes)
    for outcome in outcomes:
        found += outcome.unmended if write else outcome.faults
    mended = sum(len(outcome.faults) - len(outcome.unmended) for outcome in outcomes if write)
    counts = f"{len(outcomes)} blocks run, {len(found)} faults" + f", {mended} mended" * write
    print(f"{page.name}: {counts}", file=sys.stderr)
    return found


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
