"""A bare HTTP client, so cheap that what is measured is the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

HOST = "127.0.0.1"


@asynccontextmanager
async def asked(
    port: int, path: str, body: dict[str, Any] | None = None
) -> AsyncIterator[asyncio.StreamReader]:
    """The reply to a POST of this body, or to a GET without one, from its status line on. The
    server ends the connection; whoever leaves earlier hangs up.
    """
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: {HOST}\r\n"
    size = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(f"{head}{size}Connection: close\r\n\r\n".encode() + content)
        yield reader
    finally:
        writer.close()
