"""Lanes on which a device works through what it is given: one to compute, one each way to copy.

Within a lane everything happens in order. Between lanes only marks order anything: a lane that
waits for a mark goes on when whatever was put on the other lane before the mark is over. Putting
something on a lane never waits.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

import torch

Lane = Literal["compute", "d2h", "h2d"]
Mark = Any
"""Of a kind that the streams know."""


class Streams(Protocol):
    """The lanes of one device."""

    def run(self, lane: Lane, action: Callable[[], None]) -> None:
        """Put an action, which starts work and does not wait for it, on a lane."""
        ...

    def mark(self, lane: Lane) -> Mark:
        """A mark behind all that is on a lane now."""
        ...

    def wait(self, lane: Lane, mark: Mark) -> None:
        """What is put on a lane from now on starts when the mark is reached."""
        ...

    def reached(self, mark: Mark) -> bool:
        """True if all before a mark is over. Does not wait."""
        ...


class CudaStreams:
    """Streams of a GPU; the one to compute is the current one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = {"d2h": torch.cuda.Stream(device), "h2d": torch.cuda.Stream(device)}

    def run(self, lane: Lane, action: Callable[[], None]) -> None:
        """Start it there."""
        with self._on(lane):
            action()

    def mark(self, lane: Lane) -> Mark:
        """An event on the stream."""
        event = torch.cuda.Event()
        event.record(self._stream(lane))
        return event

    def wait(self, lane: Lane, mark: Mark) -> None:
        """The stream waits; nobody else does."""
        self._stream(lane).wait_event(mark)

    def reached(self, mark: Mark) -> bool:
        """Ask the event."""
        return bool(mark.query())

    # -- inside ---------------------------------------------------------------------------------

    def _stream(self, lane: Lane) -> Any:
        return self._side.get(lane) or torch.cuda.current_stream(self._device)

    def _on(self, lane: Lane) -> AbstractContextManager[Any]:
        side = self._side.get(lane)
        return nullcontext() if side is None else torch.cuda.stream(side)


class InlineStreams:
    """All at once, one after the other: for the CPU."""

    def run(self, lane: Lane, action: Callable[[], None]) -> None:
        """Do it."""
        action()

    def mark(self, lane: Lane) -> Mark:
        """There is nothing to wait for."""
        return None

    def wait(self, lane: Lane, mark: Mark) -> None:
        """It is over already."""

    def reached(self, mark: Mark) -> bool:
        """Always."""
        return True


def streams_for(device: torch.device) -> Streams:
    """Those of a GPU, or one after the other."""
    return CudaStreams(device) if device.type == "cuda" else InlineStreams()
