"""From the streams of the engine to what is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from executor.serving.clients import Ticket
from executor.serving.replies import (
    DONE,
    Envelope,
    Reply,
    error_body,
    event,
    reason_of,
    status_of,
    usage_of,
)
from executor.serving.streams import Ended


class Unfinished(Exception):
    """A request that ended without its answer."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(reason_of(ended))
        self.status = status_of(ended)


async def whole_reply(envelope: Envelope, tickets: Sequence[Ticket], choices: int) -> Reply:
    """All answers in one; Unfinished if one of them has none."""
    texts = await asyncio.gather(*map(_whole_text, tickets))
    written = [
        envelope.form.choice(index, text, ticket.stream.finish_reason)
        for index, (ticket, text) in enumerate(zip(tickets, texts, strict=True))
    ]
    return envelope.whole(written, usage_of(tickets, choices))


async def stream_begins(tickets: Sequence[Ticket]) -> None:
    """Wait for the first answer's first token; Unfinished if it will have none."""
    stream = tickets[0].stream
    await stream.begun()
    if not stream.output_tokens:
        _require_finished(tickets[0])


async def stream_events(
    envelope: Envelope, tickets: Sequence[Ticket], choices: int, with_usage: bool
) -> AsyncIterator[bytes]:
    """The events of a streamed reply. One that fails ends with an error in place of a choice."""
    try:
        async for piece in _merged(envelope, tickets):
            yield envelope.event([piece])
    except Unfinished as error:
        yield event(error_body(str(error), error.status))
    else:
        if with_usage:
            yield envelope.event([], usage_of(tickets, choices))
    yield DONE


# -- inside ---------------------------------------------------------------------------------------


async def _whole_text(ticket: Ticket) -> str:
    text = "".join([piece async for piece in ticket.stream])
    _require_finished(ticket)
    return text


def _require_finished(ticket: Ticket) -> None:
    ended = ticket.stream.ended
    if ended is not None and ended.outcome != "finished":
        raise Unfinished(ended)


async def _merged(envelope: Envelope, tickets: Sequence[Ticket]) -> AsyncIterator[Reply]:
    """Pieces of all answers, in the order in which they come."""
    if len(tickets) == 1:
        async for piece in _pieces(envelope, 0, tickets[0]):
            yield piece
        return
    queue: asyncio.Queue[Reply | Unfinished | None] = asyncio.Queue()
    tasks = [
        asyncio.ensure_future(_into(queue, _pieces(envelope, index, ticket)))
        for index, ticket in enumerate(tickets)
    ]
    left = len(tasks)
    try:
        while left:
            came = await queue.get()
            if isinstance(came, Unfinished):
                raise came
            if came is None:
                left -= 1
            else:
                yield came
    finally:
        for task in tasks:
            task.cancel()


async def _into(
    queue: asyncio.Queue[Reply | Unfinished | None], pieces: AsyncIterator[Reply]
) -> None:
    """Pass on what comes, the exception that ends it, or else None at its end."""
    try:
        async for piece in pieces:
            queue.put_nowait(piece)
        queue.put_nowait(None)
    except Unfinished as error:
        queue.put_nowait(error)


async def _pieces(envelope: Envelope, index: int, ticket: Ticket) -> AsyncIterator[Reply]:
    first, stream = True, ticket.stream
    async for text in stream:
        over = stream.ended is not None
        if over:
            _require_finished(ticket)
        reason = stream.finish_reason if over else None
        yield envelope.form.piece(index, text, reason, first)
        first = False
