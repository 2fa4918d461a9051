"""`python -m experiments.tables`: write the tables of results into the pages, or check them."""

from __future__ import annotations

import argparse
import sys

from experiments.studykit.reading import exit_code_of
from experiments.tables.registry import ROOT, differing, write_pages


def main() -> int:
    """Write or check; exit code 1 where a check finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if a page differs")
    check = parser.parse_args().check
    try:
        found = differing() if check else write_pages()
    except LookupError as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        return 1
    for path in found:
        said = "differs from the recorded results" if check else "written"
        print(f"{path.relative_to(ROOT)}: {said}", file=sys.stderr)
    return int(check and bool(found))


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
