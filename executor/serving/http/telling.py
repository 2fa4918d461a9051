"""From the streams of the engine to what is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from executor.serving.engine.letters import Ended
from executor.serving.http.replies import (
    DONE,
    Envelope,
    Reply,
    error_body,
    event,
    reason_of,
    status_of,
    usage_of,
)
from executor.serving.streams import Stream


class Unfinished(Exception):
    """A request that ended without its answer."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(reason_of(ended))
        self.status = status_of(ended)


async def whole_reply(envelope: Envelope, streams: Sequence[Stream], choices: int) -> Reply:
    """All answers in one; Unfinished if one of them has none."""
    texts = [""] * len(streams)
    async for index, text in _told(streams):
        texts[index] += text
    written = [
        envelope.form.choice(index, text, stream.finish_reason)
        for index, (stream, text) in enumerate(zip(streams, texts, strict=True))
    ]
    return envelope.whole(written, usage_of(streams, choices))


async def stream_begins(streams: Sequence[Stream]) -> None:
    """Wait for the first token of any answer; Unfinished if one ends without any."""
    await streams[0].news.wait()
    for stream in streams:
        if not stream.output_tokens:
            _require_finished(stream)


async def stream_events(
    envelope: Envelope, streams: Sequence[Stream], choices: int, with_usage: bool
) -> AsyncIterator[bytes]:
    """The events of a streamed reply. One that fails ends with an error in place of a choice."""
    begun: set[int] = set()
    try:
        async for index, text in _told(streams):
            stream = streams[index]
            reason = stream.finish_reason if stream.ended is not None else None
            yield envelope.event([envelope.form.piece(index, text, reason, index not in begun)])
            begun.add(index)
    except Unfinished as error:
        yield event(error_body(str(error), error.status))
    else:
        if with_usage:
            yield envelope.event([], usage_of(streams, choices))
    yield DONE


# -- inside ---------------------------------------------------------------------------------------


async def _told(streams: Sequence[Stream]) -> AsyncIterator[tuple[int, str]]:
    """New text of the answers, each by its index, until all are over; the last of an answer comes
    when it is. Unfinished if one is over without having finished.
    """
    news, left = streams[0].news, dict(enumerate(streams))
    while left:
        await news.wait()
        news.clear()
        for index, stream in list(left.items()):
            text = stream.drain()
            if stream.ended is not None:
                _require_finished(stream)
                del left[index]
            if text is not None:
                yield index, text


def _require_finished(stream: Stream) -> None:
    ended = stream.ended
    if ended is not None and ended.outcome != "finished":
        raise Unfinished(ended)
