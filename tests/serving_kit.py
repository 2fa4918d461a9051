"""A server of the model that ships, on a port of its own."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from executor.options import ConfigOptions
from executor.serving.app import build_app
from executor.serving.recording import Recording
from executor.serving.server import Server, read_prompts
from executor.serving.service import Rules, Service
from executor.session import ModelOptions, open_session

PATIENCE_S = 60.0


@dataclass
class Served:
    """A running server, and a client for it."""

    service: Service
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

    def until_idle(self) -> None:
        """Wait until the engine has nothing to do."""
        until(lambda: not self.service.clients.number)


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
    """A server with some options of the command line."""
    settings = {"device": "cpu", "kv_blocks": 400, "prefix_caching": True, "lag": 1, **options}
    config = ConfigOptions(**settings).load()
    session, prompts = open_session(config, ModelOptions()), read_prompts(config, None)
    with closing(Recording(tmp_path / "asked.jsonl")) as recording:
        classes = config.service_classes()
        service = Service(session, prompts, classes, rules or Rules("tiny"), recording.add)
        with listening(service) as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            yield Served(service, client, url)


@contextmanager
def listening(service: Service) -> Iterator[str]:
    """Uvicorn in a thread; gives the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = uvicorn.Config(build_app(service), log_config=None, timeout_graceful_shutdown=5)
        server = Server(settings, service, listener)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
