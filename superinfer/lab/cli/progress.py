"""How far a study is: a bar on a terminal, a line now and then elsewhere; on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

LINE_EVERY_S = 10.0

Report = Callable[[int, int, Sequence[str]], None]
"""Takes how many runs have ended, of how many, and the names of those under way."""


def silent(done: int, total: int, running: Sequence[str]) -> None:
    """A report that nobody reads."""


@contextmanager
def showing_progress(stream: TextIO | None = None) -> Iterator[Report]:
    """A report for the time of the block, on `stream` (standard error)."""
    stream = stream or sys.stderr
    if stream.isatty():
        with _bar(stream) as report:
            yield report
    else:
        yield lines(stream)


def lines(stream: TextIO, clock: Callable[[], float] = time.monotonic) -> Report:
    """A report that writes a line at once, and then no more than one in ten seconds."""
    last_s = -LINE_EVERY_S

    def report(done: int, total: int, running: Sequence[str]) -> None:
        nonlocal last_s
        now_s = clock()
        if last_s < 0 or now_s - last_s >= LINE_EVERY_S:
            last_s = now_s
            print(state_text(done, total, running), file=stream, flush=True)

    return report


def state_text(done: int, total: int, running: Sequence[str]) -> str:
    """Such as `2 of 10 runs done, running: vllm (seed 2); fcfs (seed 2)`."""
    text = f"{done} of {total} runs done"
    if not running:
        return text
    more = f" and {len(running) - 4} more" if len(running) > 4 else ""
    return f"{text}, running: {'; '.join(running[:4])}{more}"


@contextmanager
def _bar(stream: TextIO) -> Iterator[Report]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(file=stream), transient=True) as progress:
        task = progress.add_task("", total=None)

        def report(done: int, total: int, running: Sequence[str]) -> None:
            text = escape("; ".join(running))
            progress.update(task, completed=done, total=total, description=text)

        yield report
