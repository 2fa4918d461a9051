"""A server of the model that ships, on a port of its own."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from executor.models.tokenizer import ByteTokenizer
from executor.options import ConfigOptions
from executor.serving.engine.engine_client import EngineClient
from executor.serving.engine.engine_process import tell_the_end, work
from executor.serving.engine.letters import Ended
from executor.serving.recording import Recording
from executor.serving.server import Server, listener_at, read_prompts, settings_of
from executor.serving.service import Rules, Service
from executor.session import ModelOptions, Session, open_session
from executor.steps.runner import Batch, Launched
from superinfer.request import SLO, Request

PATIENCE_S = 180.0
"""For what has to come true; only a test that fails waits so long."""


@dataclass
class Served:
    """A running server, and a client for it."""

    service: Service
    session: Session
    client: httpx.Client
    url: str

    def complete(self, prompt: Any, **more: Any) -> Any:
        """The body of a completion, drawn by the likeliest tokens."""
        reply = self.client.post("/v1/completions", json=asking(prompt, **more))
        assert reply.status_code == 200, reply.text
        return reply.json()

    def text(self, prompt: Any, **more: Any) -> str:
        """Its text."""
        return str(self.complete(prompt, **more)["choices"][0]["text"])

    def refusal(self, body: Any, status: int = 400, path: str = "completions", **more: Any) -> str:
        """What the server says of a request that it does not serve."""
        reply = self.client.post(f"/v1/{path}", json=body, **more)
        assert reply.status_code == status, reply.text
        error = reply.json()["error"]
        assert error["code"] == status and "\n" not in error["message"]
        return str(error["message"])

    def metrics(self) -> dict[str, float]:
        """Every sample of the page."""
        from prometheus_client.parser import text_string_to_metric_families

        page = self.client.get("/metrics").text
        return {
            f"{sample.name}{sorted(sample.labels.items())}": sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }

    def run(self, job: Coroutine[Any, Any, None]) -> None:
        """Do something in the server's event loop."""
        asyncio.run_coroutine_threadsafe(job, self.service.engine.loop).result(PATIENCE_S)

    def take_no_more(self) -> None:
        """As where the server is told to end."""

        async def told() -> None:
            self.service.draining.set()

        self.run(told())

    def until_idle(self) -> None:
        """Wait until the engine has nothing to do."""
        until(lambda: not self.service.engine.number)


def asking(prompt: Any, **more: Any) -> dict[str, Any]:
    """The body of a request without chance."""
    return {"prompt": prompt, "temperature": 0, "max_tokens": 12, **more}


def until(true: Callable[[], bool]) -> None:
    """Wait for something, but not for ever."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline_s, "it did not come true"
        time.sleep(0.005)


@contextmanager
def serving(tmp_path: Path, rules: Rules | None = None, **options: Any) -> Iterator[Served]:
    """A server with some options of the command line; its engine works in a thread, and not in a
    process of its own.
    """
    settings = {"device": "cpu", "kv_blocks": 400, "prefix_caching": True, "lag": 1, **options}
    config = ConfigOptions(**settings).load()
    session, prompts = open_session(config, ModelOptions()), read_prompts(config, None)
    with closing(Recording(tmp_path / "asked.jsonl")) as recording, working(session) as engine:
        classes = config.service_classes()
        service = Service(engine, prompts, classes, rules or Rules("tiny"), recording.add)
        with listening(service) as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            yield Served(service, session, client, url)


@contextmanager
def held(session: Session, after: int = 0) -> Iterator[None]:
    """From the `after`-th one on no step begins until the end of the block, so that nothing that is
    under way ends before what is asked meanwhile, however slow the machine is.
    """
    going, launch, passed = threading.Event(), session.runner.launch, count()

    def launch_later(batch: Batch) -> Launched:
        assert next(passed) < after or going.wait(PATIENCE_S)
        return launch(batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.runner, "launch", launch_later)
        try:
            yield
        finally:
            going.set()


@contextmanager
def working(session: Session) -> Iterator[EngineClient]:
    """An engine behind a connection, until that is closed."""
    here, there = multiprocessing.Pipe()
    tokenizer = ByteTokenizer(session.model.vocab)
    job = partial(work, session, tokenizer, there, {})
    thread = threading.Thread(target=tell_the_end, args=(there, job))
    thread.start()
    try:
        (facts,) = here.recv()
        yield EngineClient(here, facts)
    finally:
        here.close()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@contextmanager
def listening(service: Service) -> Iterator[str]:
    """Uvicorn in a thread; gives the address."""
    with listener_at("127.0.0.1", 0) as listener:
        server = Server(settings_of(service), service, listener)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def ended(index: int = 0, outcome: str = "finished", **changes: Any) -> tuple[Request, Ended]:
    """A request of 40 tokens that came at 1 s, unless at `arrival_s`."""
    slo, arrival_s = changes.pop("slo", SLO()), changes.pop("arrival_s", 1.0)
    request = Request(f"r{index}", arrival_s, 40, 8, slo, index=index)
    times: dict[str, Any] = {
        "first_scheduled_s": 1.25,
        "first_token_s": 1.5,
        "finish_s": 2.5,
        "output_tokens": 5,
        "cached_tokens": 0,
        "preemptions": 0,
        **changes,
    }
    return request, Ended(index, outcome, None, **times)
