"""One model, ready to answer: from wishes to streams of text."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from executor.answers import Answer
from executor.serving.clients import Clients, Closed, Ticket
from executor.serving.engine_thread import GONE, EngineThread
from executor.serving.metrics import Metrics
from executor.serving.prompts import Prompts
from executor.serving.streams import Ended, Listeners, Mailbox, Stream
from executor.serving.wishes import Reader, Wish
from executor.session import Session
from superinfer.request import Request, SLOClass


@dataclass(frozen=True, slots=True)
class Rules:
    """What a server is told besides its model and its policies."""

    name: str
    """By which clients call the model."""
    most_waiting: int = 1024
    """Requests that no step has begun with; more are turned away."""
    prefix: str = "superinfer"
    """Of the names of metrics."""
    api_key: str = ""
    """What clients have to show; empty: nothing."""
    shutdown_s: float = 40.0
    """Longest wait for answers under way when the server is told to end."""
    policies: Mapping[str, str] = field(default_factory=dict)
    """Names of scheduler and memory policy, for messages."""


class Overloaded(Exception):
    """Too many requests wait."""

    def __init__(self, retry_s: int) -> None:
        super().__init__(f"too many requests wait; try again in {retry_s} s")
        self.retry_s = retry_s


class Service:
    """Everything between HTTP and the engine."""

    def __init__(
        self,
        session: Session,
        prompts: Prompts,
        classes: Mapping[str, SLOClass],
        rules: Rules,
        record: Callable[[Ended], None] = lambda ended: None,
    ) -> None:
        """`record` is told of every request that has ended, in the event loop."""
        self.rules = rules
        self.metrics = Metrics(rules.prefix, rules.name)
        self.failed = asyncio.Event()
        self.draining = False
        """No more requests are taken."""
        self.reader = Reader(prompts, session, classes, rules.most_waiting)
        """What clients ask for."""
        self._session, self._tokenizer = session, prompts.tokenizer
        self._last_queue_s = 0.0
        model = session.model
        self.clients = Clients(model.vocab, model.device)
        self._record = record
        self._engine = EngineThread(session, self.clients, rules.policies, self._fail)
        self.metrics.watch(session.engine, self.clients)

    @property
    def error(self) -> BaseException | None:
        """What the engine has failed of."""
        return self._engine.error

    @property
    def alive(self) -> bool:
        """True while requests can be answered."""
        return self._engine.alive

    @property
    def max_model_len(self) -> int:
        """Longest context."""
        return self._session.model.max_model_len

    def start(self) -> None:
        """Begin to work; in the event loop that is to hear of the answers."""
        self._loop = asyncio.get_running_loop()
        self._mailbox = Mailbox(self._loop)
        self._listeners = Listeners(self.metrics.first, self.metrics.gap, self._ended)
        self._engine.start()

    def stop(self) -> None:
        """End at the next step boundary, if it has not ended yet."""
        self._engine.stop()

    def require_room(self, answers: int) -> None:
        """Overloaded where too many wait already, Closed where no more are taken."""
        if self.draining:
            raise Closed(GONE)
        if self.clients.waiting + answers > self.rules.most_waiting:
            raise Overloaded(max(1, math.ceil(self._last_queue_s)))

    def send(self, wishes: list[Wish], name: str) -> list[Ticket]:
        """Hand wishes to the engine, if there is room for them."""
        self.require_room(len(wishes))
        news = asyncio.Event()
        tickets = [self._ticket(wish, f"{name}-{i}", news) for i, wish in enumerate(wishes)]
        self.clients.send(tickets)
        return tickets

    def settle(self, tickets: list[Ticket]) -> None:
        """The client is gone, or has all: nothing more is to be computed for these."""
        for ticket in tickets:
            if ticket.stream.ended is None:
                self.clients.withdraw(ticket)

    # -- inside ---------------------------------------------------------------------------------

    def _ended(self, ended: Ended, finish_reason: str) -> None:
        self.metrics.ended(ended, finish_reason)
        if ended.first_scheduled_s is not None:
            self._last_queue_s = ended.first_scheduled_s - ended.request.arrival_s
        self._record(ended)

    def _ticket(self, wish: Wish, name: str, news: asyncio.Event) -> Ticket:
        text = self._tokenizer.stream()
        stream = Stream(self._mailbox, text, wish.stop, wish.ends, news, self._listeners)
        answer = Answer(wish.tokens, wish.limit, wish.ends, wish.sampling, None, stream.say)
        return Ticket(self._request(wish, name), answer, stream, wish.naming)

    def _request(self, wish: Wish, name: str) -> Request:
        objective = wish.objective
        return Request(
            name,
            self._engine.clock.read(),
            len(wish.tokens),
            wish.limit,
            objective.slo,
            objective.slo_class,
            objective.tenant,
            objective.session_id,
            objective.priority,
            hash_ids=wish.content,
            hash_block_tokens=self._session.engine.config.block_tokens,
        )

    def _fail(self) -> None:
        self._loop.call_soon_threadsafe(self.failed.set)


def new_id(kind: str) -> str:
    """A name for an answer, as clients know it."""
    return f"{kind}-{uuid.uuid4().hex}"
