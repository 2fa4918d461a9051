"""Answers on their way from the engine's thread to the event loop.

The engine's thread says a token at a time; what it says within one turn of the event loop arrives
together, so that it calls the loop once a step at most, however many requests get a token.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from executor.models.text import Text
from executor.models.tokenizer import TextStream
from superinfer.request import Request
from superinfer.sequence import Sequence as Underway


@dataclass(frozen=True, slots=True)
class Said:
    """A token, and the text that it gave if that is known."""

    token: int
    text: str | None
    time_s: float
    """By `time.perf_counter`."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a request ended, in seconds of the engine's clock."""

    request: Request
    outcome: str
    """`finished`, `rejected`, `failed`, `cancelled` or `unfinished`."""
    reason: str | None
    first_scheduled_s: float | None
    first_token_s: float | None
    finish_s: float
    output_tokens: int
    cached_tokens: int
    preemptions: int

    @classmethod
    def of(cls, seq: Underway, now: float) -> Ended:
        """Of a sequence that has ended."""
        return cls(
            seq.request,
            seq.outcome,
            seq.end_reason,
            seq.first_scheduled_s,
            seq.first_token_s,
            now,
            seq.output_tokens,
            seq.cached_tokens,
            seq.preemptions,
        )


class Mailbox:
    """From the engine's thread to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._letters: deque[tuple[Stream, Said | Ended]] = deque()
        self._called = False
        """The loop knows that there are letters."""

    def put(self, stream: Stream, letter: Said | Ended) -> None:
        """For the engine's thread."""
        self._letters.append((stream, letter))
        if not self._called:
            self._called = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._called = False  # first: what comes from here on is worth a call of its own
        try:
            while self._letters:
                stream, letter = self._letters.popleft()
                stream.take(letter)
        finally:
            if self._letters:  # one could not be taken; the others can
                self._loop.call_soon(self._deliver)


@dataclass(slots=True)
class Listeners:
    """Who else hears of an answer, in the event loop."""

    first: Callable[[float], None]
    """Seconds from the request to its first token."""
    gap: Callable[[float], None]
    """Seconds between two tokens."""
    ended: Callable[[Ended, str], None]
    """How it ended, and `stop` or `length`."""


class Stream:
    """One answer, on the event loop's side."""

    def __init__(
        self,
        mailbox: Mailbox,
        tokens: TextStream,
        stop: Sequence[str],
        stop_tokens: frozenset[int],
        news: asyncio.Event,
        listeners: Listeners,
    ) -> None:
        """`tokens` turns them into text: where there are texts to stop at in the engine's thread,
        which has to know at once; else in the loop, beside the engine's work. `news` is set
        whenever there is anything to tell.
        """
        self.output_tokens = 0
        self.ended: Ended | None = None
        self.news = news
        self._pieces: list[str] = []
        self._text = Text(tokens, stop, self._pieces.append)
        self._watched, self._stop_tokens = any(stop), stop_tokens
        self._mailbox, self._listeners = mailbox, listeners
        self._told: list[str] = []
        self._last_token: int | None = None
        self._last_s = perf_counter()
        """When the latest token came, or the request."""

    # -- in the engine's thread -----------------------------------------------------------------

    def say(self, token: int) -> bool:
        """Pass a token on; True if a stop text is there."""
        text = None
        if self._watched:
            self._push(token)
            text = self._taken()
        self._mailbox.put(self, Said(token, text, perf_counter()))
        return self._text.stopped

    def end(self, ended: Ended) -> None:
        """The request is over."""
        self._mailbox.put(self, ended)

    # -- in the event loop ----------------------------------------------------------------------

    @property
    def finish_reason(self) -> str:
        """`stop` or `length`, of an answer that finished."""
        stopped = self._text.stopped or self._last_token in self._stop_tokens
        return "stop" if stopped else "length"

    def take(self, letter: Said | Ended) -> None:
        """Take in what the engine says."""
        try:
            if isinstance(letter, Ended):
                self._end(letter)
            else:
                self._hear(letter)
        finally:
            self.news.set()

    def drain(self) -> str | None:
        """What was said since the last time; None if nothing was, which is not the same as a token
        without text.
        """
        if not self._told:
            return None
        text = "".join(self._told)
        self._told.clear()
        return text

    # -- inside ---------------------------------------------------------------------------------

    def _end(self, ended: Ended) -> None:
        self.ended = ended
        self._text.finish()
        self._told.append(self._taken())
        self._listeners.ended(ended, self.finish_reason)

    def _hear(self, said: Said) -> None:
        tell = self._listeners.gap if self.output_tokens else self._listeners.first
        tell(said.time_s - self._last_s)
        self.output_tokens += 1
        self._last_token, self._last_s = said.token, said.time_s
        if said.text is None:
            self._push(said.token)
            self._told.append(self._taken())
        else:
            self._told.append(said.text)

    def _push(self, token: int) -> None:
        """Turn a token into text; those that end an answer are no part of it."""
        if token not in self._stop_tokens:
            self._text.push(token)

    def _taken(self) -> str:
        """What the text has passed on since the last time."""
        text = "".join(self._pieces)
        self._pieces.clear()
        return text
