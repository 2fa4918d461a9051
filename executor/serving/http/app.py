"""The routes: OpenAI's completions and chat completions, models, health and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from executor.serving.engine.letters import Wish
from executor.serving.http.bodies import Body, ChatBody, CompletionBody
from executor.serving.http.exchange import Exchange
from executor.serving.http.guards import MOST_VALUES, BodyInTime, BodyLimit, KeyCheck
from executor.serving.http.names import REQUEST_ID, NamesBack
from executor.serving.http.refusals import add_refusals, refusal
from executor.serving.http.replies import CHAT, COMPLETION, Envelope, Form
from executor.serving.objectives import urgency
from executor.serving.service import Service, new_id


def build_app(service: Service) -> FastAPI:
    """The application around a service."""

    @asynccontextmanager
    async def working(_: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        yield
        await service.engine.stop()

    app = FastAPI(
        title="SuperInfer", lifespan=working, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    api = APIRouter(prefix="/v1")
    add_refusals(app)
    _add_state(app, service)
    _add_completions(api, service)
    app.include_router(api)
    app.add_middleware(BodyInTime, service=service)
    app.add_middleware(BodyLimit, most_values=max(MOST_VALUES, 2 * service.max_model_len))
    if service.rules.api_key:
        app.add_middleware(KeyCheck, key=service.rules.api_key)
    app.add_middleware(NamesBack)  # the last one is the first to see a request
    return app


# -- inside ---------------------------------------------------------------------------------------


def _add_completions(api: APIRouter, service: Service) -> None:
    @api.post("/completions")
    async def completions(body: CompletionBody, http: Request) -> Response:
        return await _answer(http, service, body, COMPLETION, service.reader.completions)

    @api.post("/chat/completions")
    async def chat(body: ChatBody, http: Request) -> Response:
        return await _answer(http, service, body, CHAT, service.reader.chat)


async def _answer(
    http: Request, service: Service, body: Body, form: Form, wishes_of: Callable[..., list[Wish]]
) -> Response:
    """Read what is asked for, hand it to the engine, and tell what comes of it."""
    _require_model(service, body.model)
    objective = service.reader.objective(body, http.headers)
    service.require_room(1, urgency(objective))  # before prompts are read
    wishes = await asyncio.to_thread(wishes_of, body, objective)
    tier = objective.slo_class.name if body.service_tier else None
    envelope = Envelope.new(form, new_id(form.kind), service.rules.name, tier)
    streams = service.send(wishes, envelope.name, whole=not body.stream)
    headers = {REQUEST_ID: envelope.name}
    exchange = Exchange(http, service, envelope, body, streams, headers)
    return await (exchange.streamed() if body.stream else exchange.whole())


def _add_state(app: FastAPI, service: Service) -> None:
    model: dict[str, Any] = {
        **{"id": service.rules.name, "object": "model", "created": 0},
        **{"owned_by": "superinfer", "max_model_len": service.max_model_len},
    }

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model]})

    async def one_model(http: Request) -> Response:
        _require_model(service, http.path_params["name"])
        return JSONResponse(model)

    async def health(_: Request) -> Response:
        fault = service.fault
        return refusal(fault, 503) if fault else Response()

    async def metrics(_: Request) -> Response:
        return Response(await service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    # Starlette's routes answer HEAD, too, with which load balancers ask.
    app.add_route("/v1/models", models)
    app.add_route("/v1/models/{name:path}", one_model)
    app.add_route("/health", health)
    app.add_route("/metrics", metrics)


def _require_model(service: Service, name: str | None) -> None:
    if name and name != service.rules.name:
        known = service.rules.name
        raise HTTPException(404, f"the model {name!r} is not here; expected {known!r}")
