"""What is turned away before a route sees it: who shows no key, and bodies that are too large or
come too late.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from executor.serving.http.refusals import refusal
from executor.serving.service import Service

MOST_BODY_BYTES = 32 << 20
MOST_VALUES = 1 << 20
"""Of all lists and objects in a body: as a prompt in tokens that many take 0.1 s to be read."""
MOST_PARTS = 1 << 17
"""Lists, objects and names in a body, each of which takes ten times as long as a value; 16,384
messages (`bodies.MOST_LISTED`) of one part each have 114,688."""
NO_KEY = "expected the server's key as bearer token"
TOO_LARGE = f"expected a body of at most {MOST_BODY_BYTES >> 20} MiB"
NOT_UTF_8 = "expected JSON in UTF-8"


class KeyCheck:
    """Turns away who shows no key, before anything is read; health and metrics are open to all."""

    def __init__(self, app: Any, key: str) -> None:
        self._app, self._key = app, key.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] == "http" and scope["path"].startswith("/v1") and not self._shown(scope):
            answer = refusal(NO_KEY, 401, headers={"WWW-Authenticate": "Bearer"})
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _shown(self, scope: Any) -> bool:
        header = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, shown = header.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(shown.strip(), self._key)


class BodyLimit:
    """Refuses bodies above `MOST_BODY_BYTES`: by the length that they state, or else once that much
    is read. Starlette's own limit answers in plain text.

    Nobody else is served while JSON is read, which takes seconds for some millions of values and
    far less for as many bytes of text. So bodies of more than `most_values`, or of more than
    `MOST_PARTS`, are refused, too, while they come.
    """

    def __init__(self, app: Any, most_values: int = MOST_VALUES) -> None:
        self._app, self._most_values = app, most_values

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] == "http" and _stated_bytes(scope) > MOST_BODY_BYTES:
            await refusal(TOO_LARGE, 413)(scope, receive, send)
        else:
            await self._app(scope, _Counted(receive, self._most_values), send)


class BodyInTime:
    """Turns away who has not sent the whole body when the server is told to end: what is left of it
    may never come, and the server would wait for it.
    """

    def __init__(self, app: Any, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let a request through."""
        if scope["type"] == "http":
            receive = _InTime(receive, self._service)
        await self._app(scope, receive, send)


class JsonSize:
    """How much there is to be read in JSON, counted without reading it, piece by piece."""

    def __init__(self) -> None:
        self.values = 0
        """Commas, of which a list of values has one less than values."""
        self.parts = 0
        """Lists, objects and names."""
        self._in_text = False
        self._rest = b""
        """A backslash that belongs to what comes next."""

    def add(self, piece: bytes) -> None:
        """Count what stands outside of texts. Up to where JSON is wrong the count is right, and
        nobody reads on from there.
        """
        piece = (self._rest + piece).replace(rb"\\", b"").replace(rb"\"", b"")
        self._rest = b"\\" if piece.endswith(b"\\") else b""
        texts = piece.split(b'"')
        outside = b"".join(texts[self._in_text :: 2])
        self._in_text ^= len(texts) % 2 == 0
        self.values += outside.count(b",")
        self.parts += sum(map(outside.count, (b"[", b"{", b":")))


class _Counted:
    """A body as it comes; HTTPException where it becomes too large."""

    def __init__(self, receive: Any, most_values: int) -> None:
        self._receive, self._most_values = receive, most_values
        self._bytes, self._size = 0, JsonSize()

    async def __call__(self) -> Any:
        message = await self._receive()
        piece = message.get("body", b"")
        self._bytes += len(piece)
        if self._bytes > MOST_BODY_BYTES:
            raise HTTPException(413, TOO_LARGE)
        if b"\0" in piece:  # other encodings have it, and would be counted wrongly
            raise HTTPException(400, NOT_UTF_8)
        self._size.add(piece)
        self._require(self._size.values, self._most_values, "values")
        self._require(self._size.parts, MOST_PARTS, "lists, objects and names")
        return message

    def _require(self, count: int, most: int, what: str) -> None:
        if count > most:
            raise HTTPException(413, f"expected a body of at most {most} {what}")


class _InTime:
    """A body as it comes; HTTPException where the server is told to end before it is whole."""

    def __init__(self, receive: Any, service: Service) -> None:
        self._receive, self._service = receive, service
        self._whole = False

    async def __call__(self) -> Any:
        if self._whole:  # what comes now is that the client has gone away
            return await self._receive()
        message = await self._before_the_end()
        self._whole = not message.get("more_body", False)
        return message

    async def _before_the_end(self) -> Any:
        coming = asyncio.ensure_future(self._receive())
        ending = asyncio.ensure_future(self._service.draining.wait())
        try:
            await asyncio.wait((coming, ending), return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                raise HTTPException(503, str(self._service.turned_away()))
            return coming.result()
        finally:
            coming.cancel()
            ending.cancel()


def _stated_bytes(scope: Any) -> int:
    """What the header says; 0 where it says nothing, and the HTTP parser has seen to the rest."""
    return int(Headers(scope=scope).get("content-length") or 0)
