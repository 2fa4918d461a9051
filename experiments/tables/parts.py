"""What the tables of all pages are put together from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.studykit.reading import fields_of, read_json
from superinfer.lab.report.values import NONE

Lines = Iterable[str]
Show = Callable[[Path], Lines]
"""From the folder of results to lines of markdown."""
Numbers = Mapping[str, Any]


def recorded(file: str, show: Callable[[Any], Lines]) -> Show:
    """A table of one JSON file below the folder of results.

    ConfigError where that is absent or damaged.
    """

    def read(results: Path) -> Lines:
        found = read_json(results / file)
        with fields_of(results / file):
            return list(show(found))

    return read


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1, last_texts: int = 0
) -> Iterator[str]:
    """A table of markdown: the first `texts` and the last `last_texts` columns are text, the others
    numbers.
    """
    numbers = len(head) - texts - last_texts
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * texts + "--:|" * numbers + "---|" * last_texts
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def blocks(*parts: str | Lines) -> str:
    """Lines and groups of lines with an empty line between each two; empty ones are left out."""
    texts = (part if isinstance(part, str) else "\n".join(part) for part in parts)
    return "\n\n".join(text for text in texts if text)


def page_of(*parts: str | Lines) -> str:
    """The text of a page of such blocks."""
    return blocks(*parts) + "\n"


def bullets(items: Lines) -> Lines:
    """A list of markdown."""
    return (f"* {item}" for item in items)


def number(value: float | None, digits: int = 0, scale: float = 1.0, unit: str = "") -> str:
    """`1,234.5 ms`; a dash where there is no value."""
    if value is None:
        return NONE
    return f"{value * scale:,.{digits}f}{' ' if unit else ''}{unit}"


def spread(found: Numbers, digits: int = 0, scale: float = 1.0, sign: str = "") -> str:
    """A mean and its 95 % interval: `1.5 [1.2, 1.8]`; `sign` is `+` for a difference."""
    mean, low, high = (found[key] for key in ("mean", "low", "high"))
    if mean is None:
        return NONE
    shown = f"{mean * scale:{sign},.{digits}f}"
    if low is None:
        return shown
    return f"{shown} [{low * scale:{sign},.{digits}f}, {high * scale:{sign},.{digits}f}]"
