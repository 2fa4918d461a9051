"""Errors on the wire: one line each, in OpenAI's form."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from executor.serving.engine.engine_client import Closed
from executor.serving.http.replies import error_body
from executor.serving.http.telling import Unfinished
from executor.serving.service import Overloaded
from superinfer.errors import InputError

MOST_MESSAGE_CHARACTERS = 1000
"""Of a message: what a client has sent may be part of it."""


def add_refusals(app: FastAPI) -> None:
    """What each exception of a route becomes."""

    @app.exception_handler(InputError)
    async def bad(_: Request, error: InputError) -> Response:
        return refusal(str(error), 400, error.field)

    @app.exception_handler(RequestValidationError)
    async def unread(_: Request, error: RequestValidationError) -> Response:
        return refusal(*_first_fault(error))

    @app.exception_handler(Overloaded)
    async def overloaded(_: Request, error: Overloaded) -> Response:
        return refusal(str(error), 429, headers={"Retry-After": str(error.retry_s)})

    @app.exception_handler(Closed)
    async def closed(_: Request, error: Closed) -> Response:
        return refusal(str(error), 503)

    @app.exception_handler(Unfinished)
    async def unfinished(_: Request, error: Unfinished) -> Response:
        return refusal(str(error), error.status)

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        headers = dict(error.headers) if error.headers else None
        message = _unread(error.__cause__) or str(error.detail)
        return refusal(message, error.status_code, headers=headers)

    @app.exception_handler(Exception)  # a fault of ours, which is raised once more for the log
    async def fault(_: Request, error: Exception) -> Response:
        return refusal(f"a fault of the server: {type(error).__name__}", 500)


def refusal(
    message: str, status: int, param: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    """An error as a reply."""
    body = error_body(_line(message), status, _line(param or ""))
    return JSONResponse(body, status, headers)


# -- inside ---------------------------------------------------------------------------------------


def _unread(cause: BaseException | None) -> str | None:
    """What is expected where FastAPI could not read a body for a reason that it does not name; None
    where that is not it.
    """
    if isinstance(cause, RecursionError):
        return "expected JSON that is not nested so deeply"
    if isinstance(cause, UnicodeDecodeError):
        return "expected JSON in UTF-8"
    return "expected JSON with numbers of fewer digits" if isinstance(cause, ValueError) else None


def _first_fault(error: RequestValidationError) -> tuple[str, int, str]:
    """Of a body that cannot be read: what is expected where, the status, and the field."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"expected JSON: {first['ctx']['error']}", 400, ""
    field = ".".join(str(part) for part in first["loc"][1:])
    if not field:
        return "expected a JSON object, with Content-Type: application/json", 400, ""
    wanted = str(first["msg"]).removeprefix("Value error, ")
    return f"{field}: {wanted}", 400, field


def _line(text: str) -> str:
    """Text as one line of what can be sent, and not without end."""
    return " ".join(text.encode("utf-8", "replace").decode().split())[:MOST_MESSAGE_CHARACTERS]
