"""The routes: OpenAI's completions and chat completions, models, health and metrics."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from executor.serving.bodies import Body, ChatBody, CompletionBody
from executor.serving.clients import Ticket
from executor.serving.replies import CHAT, COMPLETION, Envelope, Form, error_body
from executor.serving.service import Overloaded, Service, Wish, new_id
from executor.serving.telling import Unfinished, stream_begins, stream_events, whole_reply
from superinfer.errors import InputError

REQUEST_ID = "x-request-id"


def build_app(service: Service) -> FastAPI:
    """The application around a service."""

    @asynccontextmanager
    async def working(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.to_thread(service.stop)

    app = FastAPI(title="SuperInfer", lifespan=working, docs_url=None, redoc_url=None)
    api = APIRouter(prefix="/v1", dependencies=[Depends(_key_check(service.rules.api_key))])
    _add_errors(app)
    _add_state(app, api, service)
    _add_completions(api, service)
    app.include_router(api)
    return app


# -- inside ---------------------------------------------------------------------------------------


def _add_completions(api: APIRouter, service: Service) -> None:
    @api.post("/completions")
    async def completions(body: CompletionBody, http: Request) -> Response:
        return await _answer(http, service, body, COMPLETION, service.completions)

    @api.post("/chat/completions")
    async def chat(body: ChatBody, http: Request) -> Response:
        return await _answer(http, service, body, CHAT, service.chat)


async def _answer(
    http: Request, service: Service, body: Any, form: Form, wishes_of: Callable[..., list[Wish]]
) -> Response:
    """Read what is asked for, hand it to the engine, and tell what comes of it."""
    if service.draining or not service.alive:
        raise HTTPException(503, "the server is shutting down")
    _require_model(service, body.model)
    wishes = await asyncio.to_thread(wishes_of, body, http.headers)
    envelope = Envelope.new(form, new_id(form.kind), service.rules.name)
    tickets = service.send(wishes, envelope.name)
    headers = {REQUEST_ID: http.headers.get(REQUEST_ID) or envelope.name}
    tell = _streamed if body.stream else _whole
    return await tell(http, service, envelope, body, tickets, headers)


async def _whole(
    http: Request,
    service: Service,
    envelope: Envelope,
    body: Body,
    tickets: list[Ticket],
    headers: dict[str, str],
) -> Response:
    """All at once."""
    try:
        reply = await _unless_gone(http, whole_reply(envelope, tickets, body.choices))
    finally:
        service.settle(tickets)
    return JSONResponse(reply, headers=headers)


async def _streamed(
    http: Request,
    service: Service,
    envelope: Envelope,
    body: Body,
    tickets: list[Ticket],
    headers: dict[str, str],
) -> Response:
    """As it comes. What is refused before its first token has a status that says so."""

    async def events() -> AsyncIterator[bytes]:
        try:
            async for event in stream_events(envelope, tickets, body.choices, body.with_usage):
                yield event
        finally:
            service.settle(tickets)

    try:
        await _unless_gone(http, stream_begins(tickets))
    except BaseException:
        service.settle(tickets)
        raise
    return StreamingResponse(events(), media_type="text/event-stream", headers=headers)


async def _unless_gone(http: Request, reply: Any) -> Any:
    """What a coroutine gives, unless the client goes away before."""
    working = asyncio.ensure_future(reply)
    watching = asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise HTTPException(499, "the client has gone away")
        return working.result()
    finally:
        working.cancel()
        watching.cancel()


async def _gone(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _add_state(app: FastAPI, api: APIRouter, service: Service) -> None:
    @api.get("/models")
    async def models() -> dict[str, Any]:
        model = {"id": service.rules.name, "object": "model", "created": 0}
        more = {"owned_by": "superinfer", "max_model_len": service.max_model_len}
        return {"object": "list", "data": [{**model, **more}]}

    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=200 if service.alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_errors(app: FastAPI) -> None:
    """Every error is one line in OpenAI's form."""

    @app.exception_handler(InputError)
    async def bad(_: Request, error: InputError) -> Response:
        return _refusal(str(error), 400, error.field)

    @app.exception_handler(RequestValidationError)
    async def unread(_: Request, error: RequestValidationError) -> Response:
        return _refusal(*_first_fault(error))

    @app.exception_handler(Overloaded)
    async def overloaded(_: Request, error: Overloaded) -> Response:
        return _refusal(str(error), 429, headers={"Retry-After": str(error.retry_s)})

    @app.exception_handler(Unfinished)
    async def unfinished(_: Request, error: Unfinished) -> Response:
        return _refusal(str(error), error.status)

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        return _refusal(str(error.detail), error.status_code)


def _first_fault(error: RequestValidationError) -> tuple[str, int, str]:
    """Of a body that cannot be read: what is expected where, the status, and the field."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"expected JSON: {first['ctx']['error']}", 400, ""
    field = ".".join(str(part) for part in first["loc"][1:])
    wanted = str(first["msg"]).removeprefix("Value error, ")
    return ": ".join(part for part in (field, wanted) if part), 400, field


def _refusal(
    message: str, status: int, param: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    return JSONResponse(error_body(message, status, param), status, headers)


def _key_check(key: str) -> Callable[[Request], None]:
    """Turns away who does not show the key; everybody is let in where there is none."""

    def check(http: Request) -> None:
        shown = http.headers.get("authorization", "").encode()
        if key and not hmac.compare_digest(shown, f"Bearer {key}".encode()):
            raise HTTPException(401, "expected the server's key as bearer token")

    return check


def _require_model(service: Service, name: str | None) -> None:
    if name and name != service.rules.name:
        known = service.rules.name
        raise HTTPException(404, f"the model {name!r} is not here; expected {known!r}")
