"""One model, ready to answer: from wishes to streams of text."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from executor.serving.engine.engine_client import GONE, Closed, EngineClient
from executor.serving.engine.letters import Ask, Ended, Wish, request_of
from executor.serving.metrics import Metrics
from executor.serving.objectives import Urgency, urgency
from executor.serving.prompts import Prompts
from executor.serving.streams import Listeners, Stream
from executor.serving.wishes import Reader
from superinfer.request import Request, SLOClass


@dataclass(frozen=True, slots=True)
class Rules:
    """What a server is told besides its model and its policies."""

    name: str
    """By which clients call the model."""
    most_waiting: int = 1024
    """Requests, as urgent as a new one or more so, that no step has begun with; more are turned
    away.
    """
    prefix: str = "superinfer"
    """Of the names of metrics."""
    api_key: str = ""
    """What clients have to show; empty: nothing."""
    shutdown_s: float = 40.0
    """Longest wait for answers under way when the server is told to end."""
    policies: Mapping[str, str] = field(default_factory=dict)
    """Names of scheduler and memory policy, for messages."""
    priorities: bool = True
    """The scheduler goes by those of requests."""
    stuck_s: float = 300.0
    """A step under way for longer is taken for one that never ends."""


class Overloaded(Exception):
    """Too many requests wait."""

    def __init__(self, retry_s: int) -> None:
        super().__init__(f"too many requests wait; try again in {retry_s} s")
        self.retry_s = retry_s


class Service:
    """Everything between HTTP and the engine. It runs in the event loop."""

    def __init__(
        self,
        engine: EngineClient,
        prompts: Prompts,
        classes: Mapping[str, SLOClass],
        rules: Rules,
        record: Callable[[Request, Ended], None] = lambda request, ended: None,
    ) -> None:
        """`record` is told of every request that has ended."""
        self.rules, self.engine = rules, engine
        self.metrics = Metrics(rules.prefix, rules.name, engine)
        self.draining = asyncio.Event()
        """No more requests are taken."""
        self.reader = Reader(prompts, engine.facts, classes, rules.most_waiting, rules.priorities)
        """What clients ask for."""
        self._tokenizer = prompts.tokenizer
        self._record = record
        self._listeners = Listeners(self.metrics.first, self.metrics.gap, self._ended)

    @property
    def fault(self) -> str:
        """Why requests cannot be answered; empty while they can."""
        if self.engine.over.is_set():
            return self.engine.reason
        still_s = self.engine.still_s
        stuck = still_s > self.rules.stuck_s
        return f"the engine has not come to the end of a step for {still_s:.0f} s" if stuck else ""

    @property
    def max_model_len(self) -> int:
        """Longest context."""
        return self.engine.facts.max_model_len

    def require_room(self, answers: int, urgency: Urgency) -> None:
        """Overloaded where too many wait already that are as urgent, Closed where no more are
        taken.
        """
        if self.draining.is_set():
            raise self.turned_away()
        waiting = self.engine.waiting
        if waiting.number(urgency) + answers > self.rules.most_waiting:
            self.metrics.refused("overloaded")
            expected_s = waiting.expected_s(urgency, self.engine.read_clock())
            raise Overloaded(max(1, math.ceil(expected_s)))

    def send(self, wishes: list[Wish], name: str, *, whole: bool) -> list[Stream]:
        """Hand wishes to the engine, if there is room for them; their answers are told each as a
        `whole`, or as they come.
        """
        self.require_room(len(wishes), urgency(wishes[0].objective))
        news = asyncio.Event()
        return [self._sent(wish, f"{name}-{i}", news, whole) for i, wish in enumerate(wishes)]

    def turned_away(self) -> Closed:
        """What a request is told that came too late; it is counted."""
        self.metrics.refused("shutting_down")
        return Closed(GONE)

    def settle(self, streams: list[Stream]) -> None:
        """The client is gone, or has all: nothing more is to be computed for these."""
        for stream in streams:
            self.engine.withdraw(stream.request.index)

    # -- inside ---------------------------------------------------------------------------------

    def _ended(self, request: Request, ended: Ended, finish_reason: str) -> None:
        self.metrics.ended(request, ended, finish_reason)
        self._record(request, ended)

    def _sent(self, wish: Wish, name: str, news: asyncio.Event, whole: bool) -> Stream:
        engine, text = self.engine, self._tokenizer.stream()
        ask = Ask(engine.new_index(), name, engine.read_clock(), wish)
        request = request_of(ask, engine.facts.block_tokens)
        stream = Stream(request, text, wish.ends, news, self._listeners, whole=whole)
        engine.send(ask, stream)
        return stream


def new_id(kind: str) -> str:
    """A name for an answer, as clients know it."""
    return f"{kind}-{uuid.uuid4().hex}"
