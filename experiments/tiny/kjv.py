"""The text that the shipped model is trained on: `python -m experiments.tiny.kjv -o kjv.txt`.

It is the King James Version of 1611, out of copyright, as Debian's packages `bible-kjv` and
`bible-kjv-text` print it (`apt-get install bible-kjv bible-kjv-text`). One verse to a line without
its reference, an empty line between chapters.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

REFERENCE = re.compile(r"(?P<chapter>\S+?\d+):\d+ (?P<verse>.*)")
"""How `bible -f` prints a verse: `1Ki8:27 But will God indeed dwell on the earth?…`."""


def chapters(lines: Iterable[str]) -> str:
    """The verses without their references, chapters apart; ValueError for any other line."""
    verses = [_verse(line.rstrip()) for line in lines if line.strip()]
    parts = groupby(verses, key=lambda verse: verse[0])
    return "\n\n".join("\n".join(text for _, text in part) for _, part in parts) + "\n"


def _verse(line: str) -> tuple[str, str]:
    found = REFERENCE.fullmatch(line)
    if found is None:
        raise ValueError(f"expected a verse with its reference, found: {line[:60]!r}")
    return found["chapter"], found["verse"]


def main() -> None:
    """Write the text to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True)
    out = parser.parse_args().out
    if shutil.which("bible") is None:
        sys.exit("`bible` is not installed: apt-get install bible-kjv bible-kjv-text")
    command = ["bible", "-f", "gen1:1-rev22:21"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    out.write_text(chapters(printed.splitlines()), encoding="utf-8")


if __name__ == "__main__":
    main()
