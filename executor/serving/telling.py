"""From the streams of the engine to what is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from executor.serving.letters import Ended
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
from executor.serving.service import Ticket


class Unfinished(Exception):
    """A request that ended without its answer."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(reason_of(ended))
        self.status = status_of(ended)


async def whole_reply(envelope: Envelope, tickets: Sequence[Ticket], choices: int) -> Reply:
    """All answers in one; Unfinished if one of them has none."""
    texts = [""] * len(tickets)
    async for index, text in _told(tickets):
        texts[index] += text
    written = [
        envelope.form.choice(index, text, ticket.stream.finish_reason)
        for index, (ticket, text) in enumerate(zip(tickets, texts, strict=True))
    ]
    return envelope.whole(written, usage_of(tickets, choices))


async def stream_begins(tickets: Sequence[Ticket]) -> None:
    """Wait for the first token of any answer; Unfinished if one ends without any."""
    await tickets[0].stream.news.wait()
    for ticket in tickets:
        if not ticket.stream.output_tokens:
            _require_finished(ticket)


async def stream_events(
    envelope: Envelope, tickets: Sequence[Ticket], choices: int, with_usage: bool
) -> AsyncIterator[bytes]:
    """The events of a streamed reply. One that fails ends with an error in place of a choice."""
    begun: set[int] = set()
    try:
        async for index, text in _told(tickets):
            stream = tickets[index].stream
            reason = stream.finish_reason if stream.ended is not None else None
            yield envelope.event([envelope.form.piece(index, text, reason, index not in begun)])
            begun.add(index)
    except Unfinished as error:
        yield event(error_body(str(error), error.status))
    else:
        if with_usage:
            yield envelope.event([], usage_of(tickets, choices))
    yield DONE


# -- inside ---------------------------------------------------------------------------------------


async def _told(tickets: Sequence[Ticket]) -> AsyncIterator[tuple[int, str]]:
    """New text of the answers, each by its index, until all are over; the last of an answer comes
    when it is. Unfinished if one is over without having finished.
    """
    news, left = tickets[0].stream.news, dict(enumerate(tickets))
    while left:
        await news.wait()
        news.clear()
        for index, ticket in list(left.items()):
            text = ticket.stream.drain()
            if ticket.stream.ended is not None:
                _require_finished(ticket)
                del left[index]
            if text is not None:
                yield index, text


def _require_finished(ticket: Ticket) -> None:
    ended = ticket.stream.ended
    if ended is not None and ended.outcome != "finished":
        raise Unfinished(ended)
