"""How a command prints its result on standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_WIDEST = 100_000
"""Characters; more than any table has."""
_CUT = "…"
"""Ends what Rich has cut off."""


def print_out(text: str) -> None:
    """Print to standard output, at once."""
    with quiet_pipe():
        print(text, flush=True)


def print_table(table: RenderableType) -> None:
    """Print a table. A terminal limits its width to what its words need, and breaks longer lines
    itself: no figure is cut off.
    """
    from rich.console import Console

    console = Console()
    given, terminal = console.width, console.is_terminal
    text = _rendered(console, table, given) if terminal else ""
    if not text or _CUT in text:
        text = _uncut(console, table, given if terminal else _WIDEST)
    print_out(text.removesuffix("\n"))


@contextmanager
def quiet_pipe() -> Iterator[None]:
    """Let the reader of standard output go away, as `head` does; the rest is not written."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# -- inside ---------------------------------------------------------------------------------------


def _uncut(console: Console, table: RenderableType, least: int) -> str:
    """As narrow as it can be, and no narrower than that."""
    console.width = _WIDEST  # no measure is above the console's width
    widest = console.measure(table).maximum
    whole = _rendered(console, table, widest)
    of_names = whole.count(_CUT)
    narrower = (_rendered(console, table, width) for width in range(least, widest, 4))
    return next((text for text in narrower if text.count(_CUT) <= of_names), whole)


def _rendered(console: Console, table: RenderableType, width: int) -> str:
    console.width = width
    with console.capture() as captured:
        console.print(table)
    return captured.get()
