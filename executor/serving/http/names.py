"""The name that a client gives its request comes back with the reply, whatever that is."""

from __future__ import annotations

from typing import Any

REQUEST_ID = "x-request-id"
_HEADER = REQUEST_ID.encode()


class NamesBack:
    """Puts it into the head of every reply, in place of a name of our own; also of one that
    refuses, which is when somebody looks for the request.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let a request through."""
        name = dict(scope["headers"]).get(_HEADER) if scope["type"] == "http" else None
        await self._app(scope, receive, _Naming(send, name) if name else send)


class _Naming:
    """Sends a reply with a name."""

    def __init__(self, send: Any, name: bytes) -> None:
        self._send, self._name = send, name

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            others = [each for each in message["headers"] if each[0] != _HEADER]
            message = {**message, "headers": [*others, (_HEADER, self._name)]}
        await self._send(message)
