"""The routes: OpenAI's completions and chat completions, models, health and metrics."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from executor.serving.bodies import Body, ChatBody, CompletionBody
from executor.serving.clients import Ticket
from executor.serving.replies import CHAT, COMPLETION, Envelope, Form, error_body
from executor.serving.service import Overloaded, Service, Wish, new_id
from executor.serving.telling import Unfinished, stream_events, whole_reply
from superinfer.errors import InputError

REQUEST_ID = "x-request-id"
OPEN = ("/health", "/metrics")
"""What needs no key."""


def build_app(service: Service) -> FastAPI:
    """The application around a service."""

    @asynccontextmanager
    async def working(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.to_thread(service.stop)

    app = FastAPI(title="SuperInfer", lifespan=working, docs_url=None, redoc_url=None)
    _add_errors(app)
    _add_state(app, service)
    _add_completions(app, service)
    if service.rules.api_key:
        _require_key(app, service.rules.api_key)
    return app


# -- inside ---------------------------------------------------------------------------------------


def _add_completions(app: FastAPI, service: Service) -> None:
    async def answer(
        http: Request, body: Body, form: Form, wished: Callable[[], list[Wish]]
    ) -> Response:
        if service.draining or not service.alive:
            raise HTTPException(503, "the server is shutting down")
        _require_model(service, body.model)
        envelope = Envelope.new(form, new_id(form.kind), service.rules.name)
        tickets = service.send(wished(), envelope.name)
        return await _reply(http, service, envelope, body, tickets)

    @app.post("/v1/completions")
    async def completions(body: CompletionBody, http: Request) -> Response:
        wished = lambda: service.completions(body, http.headers)  # noqa: E731
        return await answer(http, body, COMPLETION, wished)

    @app.post("/v1/chat/completions")
    async def chat(body: ChatBody, http: Request) -> Response:
        return await answer(http, body, CHAT, lambda: service.chat(body, http.headers))


async def _reply(
    http: Request, service: Service, envelope: Envelope, body: Body, tickets: list[Ticket]
) -> Response:
    """The answer, whole or as a stream; what its client does not wait for is not computed."""
    headers = {REQUEST_ID: http.headers.get(REQUEST_ID) or envelope.name}
    if not body.stream:
        reply = whole_reply(envelope, tickets, body.choices)
        try:
            content = await _unless_gone(http, reply)
        finally:
            service.settle(tickets)
        return JSONResponse(content, headers=headers)

    async def events() -> AsyncIterator[bytes]:
        try:
            async for event in stream_events(envelope, tickets, body.choices, body.with_usage):
                yield event
        finally:
            service.settle(tickets)

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


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models")
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
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        return _refusal(": ".join(part for part in (field, first["msg"]) if part), 400, field)

    @app.exception_handler(Overloaded)
    async def overloaded(_: Request, error: Overloaded) -> Response:
        return _refusal(str(error), 429, headers={"Retry-After": str(error.retry_s)})

    @app.exception_handler(Unfinished)
    async def unfinished(_: Request, error: Unfinished) -> Response:
        return _refusal(str(error), error.status)

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        return _refusal(str(error.detail), error.status_code)


def _refusal(
    message: str, status: int, param: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    return JSONResponse(error_body(message, status, param), status, headers)


def _require_key(app: FastAPI, key: str) -> None:
    """Turn away who does not show the key."""

    @app.middleware("http")
    async def check(http: Request, go_on: Callable[[Request], Any]) -> Response:
        shown = http.headers.get("authorization", "")
        wanted = f"Bearer {key}"
        if http.url.path not in OPEN and not hmac.compare_digest(shown.encode(), wanted.encode()):
            return _refusal("expected the server's key as bearer token", 401)
        return await go_on(http)  # type: ignore[no-any-return]


def _require_model(service: Service, name: str | None) -> None:
    if name and name != service.rules.name:
        known = service.rules.name
        raise HTTPException(404, f"the model {name!r} is not here; expected {known!r}")
