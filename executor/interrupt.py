"""Ctrl-C: the first one ends a run at the next step boundary, the second one at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from superinfer.lab.cli.terminal import say

if TYPE_CHECKING:
    from executor.driver import Driver


@contextmanager
def stopping(
    driver: Driver, message: str = "stopping: the results so far are written"
) -> Iterator[None]:
    """Let Ctrl-C stop a driver, so that what it has done so far can be written."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if driver.stopped:
            raise KeyboardInterrupt
        driver.stop()
        if message:
            say(message)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
