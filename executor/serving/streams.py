"""Answers as the server hears them: tokens become text for whoever waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from executor.models.tokenizer import TextStream
from executor.serving.engine.letters import Ended
from superinfer.request import Request


@dataclass(slots=True)
class Listeners:
    """Who else hears of an answer."""

    first: Callable[[Request, float], None]
    """Seconds from the request to its first token."""
    gap: Callable[[Request, float], None]
    """Seconds between two tokens."""
    ended: Callable[[Request, Ended, str], None]
    """How it ended, and `stop` or `length`."""


class Stream:
    """One answer."""

    def __init__(
        self,
        request: Request,
        tokens: TextStream,
        ends: frozenset[int],
        news: asyncio.Event,
        listeners: Listeners,
        *,
        whole: bool,
    ) -> None:
        """`ends` are tokens that end it and are no part of its text. `news` is set whenever there
        is anything to tell; if the answer is told as a `whole`, once it is over.
        """
        self.request = request
        self.output_tokens = 0
        self.ended: Ended | None = None
        self.news = news
        self._tokens, self._ends, self._listeners, self._whole = tokens, ends, listeners, whole
        self._told: list[str] = []
        self._last_token: int | None = None
        self._last_s = perf_counter()
        """When the latest token came, or the request."""

    @property
    def finish_reason(self) -> str:
        """`stop` or `length`, of an answer that finished."""
        stopped = self.ended is not None and self.ended.stopped
        return "stop" if stopped or self._last_token in self._ends else "length"

    def hear(self, token: int, text: str | None, time_s: float) -> None:
        """A token, said then; with its text if the engine had to know it."""
        if text is None:
            text = "" if token in self._ends else self._tokens.push(token)
        self._told.append(text)
        tell = self._listeners.gap if self.output_tokens else self._listeners.first
        tell(self.request, time_s - self._last_s)
        self.output_tokens += 1
        self._last_token, self._last_s = token, time_s
        if not self._whole:
            self.news.set()

    def end(self, ended: Ended) -> None:
        """It is over."""
        self.ended = ended
        self._told.append(ended.rest + self._tokens.finish())
        self.news.set()
        self._listeners.ended(self.request, ended, self.finish_reason)

    def drain(self) -> str | None:
        """What was said since the last time; None if nothing was, which is not the same as a token
        without text.
        """
        if not self._told:
            return None
        text = "".join(self._told)
        self._told.clear()
        return text
