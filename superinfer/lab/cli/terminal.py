"""Text that goes to a terminal."""

from __future__ import annotations

import sys
from typing import Final
from unicodedata import category

_TURNING: Final = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
"""They turn the direction of what is written after them."""


def printable(text: str) -> str:
    """Text as it is, but for what would steer the terminal, control characters and those that turn
    the direction of writing: these are shown as Python writes them.
    """
    return "".join(ascii(c)[1:-1] if category(c) == "Cc" or c in _TURNING else c for c in text)


def say(text: str) -> None:
    """A line for the user, apart from the result."""
    print(printable(text), file=sys.stderr)
