"""The engine as the server has it: a process at the other end of a connection."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

from executor.serving.engine.letters import (
    Ask,
    Begun,
    Ended,
    EngineState,
    Facts,
    Leave,
    Look,
    Over,
    Stop,
)
from executor.serving.engine.outbox import Outbox
from executor.serving.engine.waiting import Waiting
from executor.serving.objectives import urgency
from executor.serving.streams import Stream
from superinfer.errors import SuperInferError

GONE = "the server is shutting down"
STOP_S, LOOK_S = 15.0, 1.0
"""How long the engine has to end its step when it is told to stop, and to say how it is."""


class Closed(Exception):
    """Nobody is served any more."""


class EngineClient:
    """Hands requests over and hears the answers. Everything here runs in the event loop."""

    def __init__(self, connection: Connection, facts: Facts) -> None:
        self.facts = facts
        self.state = EngineState()
        """The latest that is known."""
        self.error: BaseException | None = None
        """What has ended the engine before its time."""
        self.over = asyncio.Event()
        """The engine runs no more."""
        self._connection = connection
        self._letters: deque[Any] = deque()
        self._streams: dict[int, Stream] = {}
        """Of the requests that have not ended."""
        self.waiting = Waiting()
        """Of them, those that no step has begun with."""
        self._numbers = 0
        self._looked = asyncio.Event()
        """A state has come that was asked for last."""

    def start(self) -> None:
        """Hear what the engine says from now on."""
        self._outbox = Outbox(self._connection)
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(self._connection.fileno(), self._read)

    async def stop(self) -> None:
        """End at the next step boundary, if it has not ended yet; who has no answer by then gets
        none. One that does not answer is given up.
        """
        if self.over.is_set():
            return
        self._outbox.put(Stop())
        try:
            await asyncio.wait_for(self.over.wait(), STOP_S)
        except TimeoutError:
            self._end(SuperInferError(f"the engine has not ended its step in {STOP_S:g} s"))

    def new_index(self) -> int:
        """For the next request: they are numbered as they come."""
        self._numbers += 1
        return self._numbers - 1

    def read_clock(self) -> float:
        """Seconds of the engine's clock."""
        return perf_counter() - self.facts.started_s

    def send(self, ask: Ask, stream: Stream) -> None:
        """A client wants something; Closed if nobody is served any more."""
        if self.over.is_set():
            raise Closed(self.reason)
        self._streams[ask.index] = stream
        self.waiting.add(ask.index, urgency(stream.request), self.read_clock())
        self._outbox.put(ask)

    def withdraw(self, index: int) -> None:
        """A client has gone away; nothing more is computed for it."""
        if index in self._streams and not self.over.is_set():
            self._outbox.put(Leave(index))

    async def look(self) -> EngineState:
        """How the engine is; the latest that is known of one that does not say."""
        if not self.over.is_set():
            self._looked.clear()
            self._outbox.put(Look())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._looked.wait(), LOOK_S)
        return self.state

    @property
    def number(self) -> int:
        """Requests that have not ended."""
        return len(self._streams)

    @property
    def still_s(self) -> float:
        """Seconds since the engine was known to be between two steps, or to have nothing to do."""
        return self.read_clock() - self.state.progress_s

    @property
    def reason(self) -> str:
        """Why nobody is served any more."""
        return GONE if self.error is None else "the engine has failed"

    # -- inside ---------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            letters = self._connection.recv()
        except (EOFError, OSError):
            letters = [Over(SuperInferError("the engine's process has ended before its time"))]
        except Exception as error:  # what one process can read the other may not
            letters = [Over(SuperInferError(f"what the engine says cannot be read: {error}"))]
        self._letters += letters
        self._take_all()

    def _take_all(self) -> None:
        try:
            while self._letters:
                self._take(self._letters.popleft())
        finally:
            if self._letters:  # one could not be taken; the others can
                self.loop.call_soon(self._take_all)

    def _take(self, letter: Any) -> None:
        match letter:
            case (index, token, text, time_s):
                self._streams[index].hear(token, text, time_s)
            case Begun(index):
                asked = urgency(self._streams[index].request)
                self.waiting.begin(index, asked, self.read_clock())
            case Ended():
                stream = self._streams.pop(letter.index)
                self.waiting.drop(letter.index, urgency(stream.request))
                stream.end(letter)
            case EngineState():
                self.state = letter
                self._looked.set()
            case Over(error):
                self._end(error)

    def _end(self, error: BaseException | None) -> None:
        """The engine runs no more: whoever is left gets no answer."""
        self.loop.remove_reader(self._connection.fileno())
        self.error = error
        self.over.set()
        self._looked.set()
        self._outbox.close(0)
        for index, stream in self._streams.items():
            stream.end(_unfinished(index, stream, self.read_clock(), self.reason))
        self._streams.clear()
        self.waiting.clear()


def _unfinished(index: int, stream: Stream, now: float, reason: str) -> Ended:
    return Ended(index, "unfinished", reason, None, None, now, stream.output_tokens, 0, 0)
