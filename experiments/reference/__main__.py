"""`python -m experiments.reference`: write the reference pages, or check them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from experiments.reference import commands, config, metrics

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {
    "reference-commands.md": commands.page,
    "reference-config.md": config.page,
    "reference-metrics.md": metrics.page,
}


def differing() -> Iterator[tuple[Path, str]]:
    """The pages that are not what the program says, and what they should hold."""
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            yield path, text


def main() -> int:
    """Write or check; exit code 1 where a check finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m experiments.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if a page differs")
    check = parser.parse_args().check
    found = list(differing())
    for path, text in found:
        if not check:
            path.write_text(text, encoding="utf-8")
        print(f"{path.name}: {'differs' if check else 'written'}", file=sys.stderr)
    return int(check and bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
