"""Answers on their way from the engine's thread to the event loop.

The engine's thread says a token at a time; what it says within one turn of the event loop arrives
together, so that it calls the loop once a step at most, however many requests get a token.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from executor.models.text import Text
from executor.models.tokenizer import TextStream
from superinfer.request import Request
from superinfer.sequence import Sequence as Underway

if TYPE_CHECKING:
    from executor.serving.metrics import Metrics

REJECTED, FAILED = "rejected", "failed"


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
        while self._letters:
            stream, letter = self._letters.popleft()
            stream.take(letter)


class Stream:
    """One answer, on the event loop's side."""

    def __init__(
        self,
        mailbox: Mailbox,
        tokens: TextStream,
        stop: Sequence[str],
        stop_tokens: frozenset[int],
        metrics: Metrics,
    ) -> None:
        """`tokens` turns them into text. Where there are texts to stop at it is told them in the
        engine's thread, which has to know at once; else in the loop, beside the engine's work.
        """
        self.output_tokens = 0
        self.ended: Ended | None = None
        self._pieces: list[str] = []
        self._text = Text(tokens, stop, self._pieces.append)
        self._watched, self._stop_tokens = any(stop), stop_tokens
        self._mailbox, self._metrics = mailbox, metrics
        self._last_token: int | None = None
        self._told: list[str] = []
        self._news = asyncio.Event()
        self._last_s: float | None = None

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
        if isinstance(letter, Ended):
            self.ended = letter
            self._text.finish()
            self._told.append(self._taken())
            self._metrics.ended(letter, self)
        else:
            self._hear(letter)
        self._news.set()

    async def begun(self) -> None:
        """Come back when there is anything to tell."""
        await self._news.wait()

    async def __aiter__(self) -> AsyncIterator[str]:
        """Text as it comes, with the last of it when the request is over."""
        while True:
            await self._news.wait()
            self._news.clear()
            text, over = "".join(self._told), self.ended is not None
            self._told.clear()
            yield text
            if over:
                return

    # -- inside ---------------------------------------------------------------------------------

    def _hear(self, said: Said) -> None:
        self.output_tokens += 1
        self._last_token = said.token
        if said.text is None:
            self._push(said.token)
            self._told.append(self._taken())
        else:
            self._told.append(said.text)
        if self._last_s is not None:
            self._metrics.gap(said.time_s - self._last_s)
        self._last_s = said.time_s

    def _push(self, token: int) -> None:
        """Turn a token into text; those that end an answer are no part of it."""
        if token not in self._stop_tokens:
            self._text.push(token)

    def _taken(self) -> str:
        """What the text has passed on since the last time."""
        text = "".join(self._pieces)
        self._pieces.clear()
        return text
