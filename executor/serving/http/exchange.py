"""One request over HTTP and its reply, while the client may go away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from executor.serving.http.bodies import Body
from executor.serving.http.replies import Envelope
from executor.serving.http.telling import stream_begins, stream_events, whole_reply
from executor.serving.service import Service
from executor.serving.streams import Stream

CLIENT_CLOSED = 499
"""As nginx has it; nobody reads it."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Tells what comes of a request; what its client does not wait for is not computed."""

    http: Request
    service: Service
    envelope: Envelope
    body: Body
    streams: list[Stream]
    headers: dict[str, str]

    async def whole(self) -> Response:
        """The reply in one piece."""
        try:
            reply = whole_reply(self.envelope, self.streams, self.body.choices)
            return JSONResponse(await self._unless_gone(reply), headers=self.headers)
        finally:
            self.service.settle(self.streams)

    async def streamed(self) -> Response:
        """As it comes. What is refused before its first token has a status that says so."""
        try:
            await self._unless_gone(stream_begins(self.streams))
        except BaseException:
            self.service.settle(self.streams)
            raise
        return _Streamed(self)

    async def _unless_gone(self, reply: Coroutine[Any, Any, Any]) -> Any:
        """What a coroutine gives, unless the client goes away before."""
        working = asyncio.ensure_future(reply)
        watching = asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise HTTPException(CLIENT_CLOSED, "the client has gone away")
            return working.result()
        finally:
            working.cancel()
            watching.cancel()

    async def _gone(self) -> None:
        while (await self.http.receive())["type"] != "http.disconnect":
            pass


class _Streamed(StreamingResponse):
    """Settles when it is over, also if no event of it was sent."""

    def __init__(self, exchange: Exchange) -> None:
        body = exchange.body
        super().__init__(
            stream_events(exchange.envelope, exchange.streams, body.choices, body.with_usage),
            media_type="text/event-stream",
            headers=exchange.headers,
        )
        self._exchange = exchange

    async def __call__(self, *connection: Any) -> None:
        """Send it."""
        try:
            await super().__call__(*connection)
        finally:
            self._exchange.service.settle(self._exchange.streams)
