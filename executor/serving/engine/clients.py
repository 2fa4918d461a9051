"""The clients of a server as its engine sees them: who asks, who goes, and what they are told."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from time import perf_counter

from executor.answers import Answer
from executor.clocks.clock import LONGEST_SLEEP_S, POLL_S, RealTime
from executor.models import Model
from executor.models.text import Text
from executor.models.tokenizer import Tokenizer
from executor.serving.engine.letters import Ask, Begun, Ended, Leave, Wish, request_of
from executor.serving.engine.outbox import Outbox
from executor.serving.prompts import Naming
from executor.steps.sampler import History
from superinfer.engine import Engine
from superinfer.plan import Transfer
from superinfer.request import Request
from superinfer.sequence import Sequence

FORGET_AFTER, FORGET_AFTER_STEPS = 1000, 100_000
"""Requests that have ended, and steps, after which the engine forgets them."""


class Voice:
    """Passes the tokens of one answer on. A text to stop at has to be known at once, so the tokens
    of an answer that has one become text here; the server does it for the others, beside the
    engine's work.
    """

    def __init__(self, index: int, wish: Wish, tokenizer: Tokenizer, outbox: Outbox) -> None:
        self._index, self._outbox, self._ends = index, outbox, wish.ends
        self._pieces: list[str] = []
        watched = any(wish.stop)
        self._text = Text(tokenizer.stream(), wish.stop, self._pieces.append) if watched else None

    def say(self, token: int) -> bool:
        """Pass a token on; True if a stop text is there."""
        text = None
        if self._text is not None:
            if token not in self._ends:
                self._text.push(token)
            text = self._taken()
        self._outbox.put((self._index, token, text, perf_counter()))
        return self.stopped

    def finish(self) -> str:
        """What was held back: it might have become a text to stop at."""
        if self._text is not None:
            self._text.finish()
        return self._taken()

    @property
    def stopped(self) -> bool:
        """A stop text is there."""
        return self._text is not None and self._text.stopped

    def _taken(self) -> str:
        text = "".join(self._pieces)
        self._pieces.clear()
        return text


@dataclass(slots=True, eq=False)
class InFlight:
    """One request that has not ended."""

    request: Request
    answer: Answer
    voice: Voice
    naming: Naming
    sequence: Sequence | None = field(default=None, init=False)
    """Once the engine has it."""


class Clients:
    """All of them. To the engine's thread they are its traffic, and who knows the answers."""

    def __init__(self, tokenizer: Tokenizer, outbox: Outbox, model: Model) -> None:
        self._tokenizer, self._outbox, self._model = tokenizer, outbox, model
        self._letters: deque[Ask | Leave] = deque()
        self._bell = threading.Event()
        self._in_flight: dict[int, InFlight] = {}
        """Those that the engine has, by the index of their requests."""
        self._drawing = 0
        """How many of them do not take the most likely tokens."""
        self._endings = 0
        """Requests that have ended since the engine has last forgotten."""

    # -- from any thread ------------------------------------------------------------------------

    def read(self, letter: Ask | Leave) -> None:
        """A client wants something, or has gone away."""
        self._letters.append(letter)
        self._bell.set()

    def ring(self) -> None:
        """Wake the engine's thread."""
        self._bell.set()

    # -- in the engine's thread -----------------------------------------------------------------

    next_s = inf
    """Nobody knows; whoever comes rings (`wait`)."""

    @property
    def greedy(self) -> bool:
        """True if all take the most likely tokens."""
        return not self._drawing

    def __getitem__(self, request: Request) -> Answer:
        """The answer to a request that has not ended."""
        return self._in_flight[request.index].answer

    def tell(self, engine: Engine, now: float) -> bool:
        """Submit who came and cancel who went; False if nobody did."""
        self._bell.clear()  # first: who comes from here on rings again
        told = False
        while self._letters:
            letter, told = self._letters.popleft(), True
            if isinstance(letter, Ask):
                self._submit(engine, letter, now)
            elif letter.index in self._in_flight:
                sequence = self._in_flight[letter.index].sequence
                assert sequence is not None
                engine.cancel(sequence, now)
        self._forget(engine)
        return told

    def wait(self, longest_s: float) -> None:
        """Sleep until somebody comes or goes, but not for ever."""
        self._bell.wait(longest_s)

    def text_ids(self, seq: Sequence) -> tuple[int, ...]:
        """What a finished request's prompt and answer say, block by block (`Engine.text_ids`)."""
        asked = self._in_flight[seq.request.index]
        ids, prompt_tokens = asked.request.hash_ids, asked.request.prompt_tokens
        return asked.naming.longer(ids, prompt_tokens, asked.answer)

    def scheduled(self, seq: Sequence, now: float) -> None:
        """The engine computes for a request for the first time."""
        self._outbox.put(Begun(seq.request.index))

    def ended(self, seq: Sequence, now: float) -> None:
        """A request is over."""
        asked = self._in_flight.pop(seq.request.index)
        self._drawing -= not asked.answer.sampling.greedy
        self._endings += 1
        rest = asked.voice.finish()
        self._outbox.put(Ended.of(seq, now, rest, asked.voice.stopped))

    # -- inside ---------------------------------------------------------------------------------

    def _forget(self, engine: Engine) -> None:
        """Have what is written down of those who are done forgotten, from time to time."""
        if self._endings >= FORGET_AFTER or len(engine.batch.end_s) >= FORGET_AFTER_STEPS:
            self._endings = 0
            engine.forget()

    def _submit(self, engine: Engine, ask: Ask, now: float) -> None:
        wish = ask.wish
        voice = Voice(ask.index, wish, self._tokenizer, self._outbox)
        answer = Answer(wish.tokens, wish.limit, wish.ends, wish.sampling, None, voice.say)
        request = request_of(ask, engine.config.block_tokens)
        request.arrival_s = min(request.arrival_s, now)
        asked = self._in_flight[ask.index] = InFlight(request, answer, voice, wish.naming)
        self._drawing += not wish.sampling.greedy
        if wish.sampling.penalised:  # here, because it queues work on the device
            model = self._model
            answer.history = History(wish.tokens.tolist(), model.vocab, model.device)
        asked.sequence = engine.submit(request, now)


class LiveTime(RealTime):
    """Seconds since the start, for an engine that waits for clients."""

    def __init__(
        self, poll: Callable[[], list[Transfer]], pending: Callable[[], bool], clients: Clients
    ) -> None:
        super().__init__(poll, pending)
        self._clients = clients
        self.progress_s = 0.0
        """When the engine was last between two steps, or had nothing to do; any thread may read it.
        """

    def landed(self, until: float) -> list[tuple[Transfer, float]]:
        """Copies that are over: asked for after every step, and where there is none."""
        self.progress_s = self.read()
        return super().landed(until)

    def sleep(self, now: float, until: float) -> float:
        """Wait until then, until a copy may have landed, or until a client comes or goes; never
        infinity, for a client may always come.
        """
        longest_s = POLL_S if self._pending() else min(until - self.read(), LONGEST_SLEEP_S)
        self._clients.wait(max(0.0, longest_s))
        return max(now, self.read())
