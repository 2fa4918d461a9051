"""Requests of clients on their way from the event loop to the engine's thread, and what is known of
them until they end.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from math import inf

import torch

from executor.answers import Answer
from executor.clocks.clock import LONGEST_SLEEP_S, POLL_S, RealTime
from executor.serving.prompts import Naming
from executor.serving.streams import Ended, Stream
from executor.steps.sampler import History
from superinfer.engine import Engine
from superinfer.plan import Transfer
from superinfer.request import Request
from superinfer.sequence import Sequence

FORGET_AFTER, FORGET_AFTER_STEPS = 1000, 100_000
"""Requests that have ended, and steps, after which the engine forgets them."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One request of a client."""

    request: Request
    answer: Answer
    stream: Stream
    naming: Naming
    sequence: Sequence | None = field(default=None, init=False)
    """Once the engine has it."""
    begun: bool = field(default=False, init=False)
    """The engine has scheduled it."""


class Closed(Exception):
    """Nobody is served any more."""


class Clients:
    """All of them. To the engine's thread they are its traffic, and who knows the answers."""

    def __init__(self, vocab: int, device: torch.device) -> None:
        self._vocab, self._device = vocab, device
        self._numbers = count()
        self._coming: deque[Ticket] = deque()
        self._leaving: deque[Ticket] = deque()
        self._bell = threading.Event()
        self._tickets: dict[int, Ticket] = {}
        """Those that the engine has, by the index of their requests."""
        self._drawing = 0
        """How many of them do not take the most likely tokens."""
        self._begun = 0
        self._endings = 0
        """Requests that have ended since the engine has last forgotten."""
        self._closed = ""
        """Why nobody is served any more."""
        self._door = threading.Lock()
        """Held by who comes, and while it is closed."""

    # -- from any thread ------------------------------------------------------------------------

    def send(self, tickets: list[Ticket]) -> None:
        """A client wants something; Closed if nobody is served any more."""
        with self._door:
            if self._closed:
                raise Closed(self._closed)
            for ticket in tickets:
                ticket.request.index = next(self._numbers)
            self._coming += tickets
        self._bell.set()

    def withdraw(self, ticket: Ticket) -> None:
        """A client has gone away."""
        self._leaving.append(ticket)
        self._bell.set()

    def ring(self) -> None:
        """Wake the engine's thread."""
        self._bell.set()

    @property
    def waiting(self) -> int:
        """Requests that were never scheduled yet."""
        return len(self._coming) + len(self._tickets) - self._begun

    @property
    def number(self) -> int:
        """Requests that have not ended."""
        return len(self._coming) + len(self._tickets)

    # -- in the engine's thread -----------------------------------------------------------------

    next_s = inf
    """Nobody knows; whoever comes rings (`wait`)."""

    @property
    def greedy(self) -> bool:
        """True if all take the most likely tokens."""
        return not self._drawing

    def __getitem__(self, request: Request) -> Answer:
        """The answer to a request that has not ended."""
        return self._tickets[request.index].answer

    def tell(self, engine: Engine, now: float) -> bool:
        """Submit who came and cancel who went; False if nobody did."""
        self._bell.clear()  # first: who comes from here on rings again
        leaving = len(self._leaving)  # these have come already
        told = bool(self._coming or leaving)
        while self._coming:
            self._submit(engine, self._coming.popleft(), now)
        for _ in range(leaving):
            if (sequence := self._leaving.popleft().sequence) is not None:
                engine.cancel(sequence, now)
        self._forget(engine)
        return told

    def wait(self, longest_s: float) -> None:
        """Sleep until somebody comes or goes, but not for ever."""
        self._bell.wait(longest_s)

    def text_ids(self, seq: Sequence) -> tuple[int, ...]:
        """What a finished request's prompt and answer say, block by block (`Engine.text_ids`)."""
        ticket = self._tickets[seq.request.index]
        ids, prompt_tokens = ticket.request.hash_ids, ticket.request.prompt_tokens
        return ticket.naming.longer(ids, prompt_tokens, ticket.answer)

    def scheduled(self, seq: Sequence, now: float) -> None:
        """The engine computes for a request for the first time."""
        self._tickets[seq.request.index].begun = True
        self._begun += 1

    def ended(self, seq: Sequence, now: float) -> None:
        """A request is over."""
        ticket, ended = self._tickets.pop(seq.request.index), Ended.of(seq, now)
        self._drawing -= not ticket.answer.sampling.greedy
        self._begun -= ticket.begun
        self._endings += 1
        ticket.stream.end(ended)

    def leave_all(self, now: float, reason: str) -> None:
        """The engine runs no more: whoever is left gets no answer, and nobody is let in."""
        with self._door:
            self._closed = reason
        left = [*self._tickets.values(), *self._coming]
        self._tickets.clear()
        self._coming.clear()
        for ticket in left:
            ticket.stream.end(_unfinished(ticket, now, reason))

    # -- inside ---------------------------------------------------------------------------------

    def _forget(self, engine: Engine) -> None:
        """Have what is written down of those who are done forgotten, from time to time."""
        if self._endings >= FORGET_AFTER or len(engine.batch.end_s) >= FORGET_AFTER_STEPS:
            self._endings = 0
            engine.forget()

    def _submit(self, engine: Engine, ticket: Ticket, now: float) -> None:
        request, answer = ticket.request, ticket.answer
        request.arrival_s = min(request.arrival_s, now)
        self._tickets[request.index] = ticket  # first: whatever fails, the client is told
        self._drawing += not answer.sampling.greedy
        if answer.sampling.penalised:  # here, because it queues work on the device
            answer.history = History(answer.prompt.tolist(), self._vocab, self._device)
        ticket.sequence = engine.submit(request, now)


def _unfinished(ticket: Ticket, now: float, reason: str) -> Ended:
    request, tokens = ticket.request, len(ticket.answer.tokens)
    return Ended(request, "unfinished", reason, None, None, now, tokens, 0, 0)


class LiveTime(RealTime):
    """Seconds since the start, for an engine that waits for clients."""

    def __init__(
        self, poll: Callable[[], list[Transfer]], pending: Callable[[], bool], clients: Clients
    ) -> None:
        super().__init__(poll, pending)
        self._clients = clients

    def sleep(self, now: float, until: float) -> float:
        """Wait until then, until a copy may have landed, or until a client comes or goes; never
        infinity, for a client may always come.
        """
        longest_s = POLL_S if self._pending() else min(until - self.read(), LONGEST_SLEEP_S)
        self._clients.wait(max(0.0, longest_s))
        return max(now, self.read())
