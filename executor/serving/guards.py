"""What is turned away before a route sees it: who shows no key, and bodies without end."""

from __future__ import annotations

import hmac
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from executor.serving.refusals import refusal

MOST_BODY_BYTES = 32 << 20
NO_KEY = "expected the server's key as bearer token"
TOO_LARGE = f"expected a body of at most {MOST_BODY_BYTES >> 20} MiB"


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
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] == "http" and _stated_bytes(scope) > MOST_BODY_BYTES:
            await refusal(TOO_LARGE, 413)(scope, receive, send)
        else:
            await self._app(scope, _Counted(receive), send)


class _Counted:
    """A body as it comes; HTTPException where it becomes too large."""

    def __init__(self, receive: Any) -> None:
        self._receive, self._bytes = receive, 0

    async def __call__(self) -> Any:
        message = await self._receive()
        self._bytes += len(message.get("body", b""))
        if self._bytes > MOST_BODY_BYTES:
            raise HTTPException(413, TOO_LARGE)
        return message


def _stated_bytes(scope: Any) -> int:
    """What the header says; 0 where it says nothing, and the HTTP parser has seen to the rest."""
    return int(Headers(scope=scope).get("content-length") or 0)
