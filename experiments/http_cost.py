"""What HTTP costs an engine: `python -m experiments.http_cost`.

The server of `superinfer-exec serve`, and clients in a process of their own that all ask at once.
Its device computes nothing: a step is over so many milliseconds after the one before, in which the
host has nothing to do, as with a GPU. So whatever steps take longer than that is what the host
cannot hide, and how much processor time the engine and the server need for a step is what they
themselves need. `--streams` are numbers of requests at once; each wants `--tokens` tokens.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from typing import Annotated, Any

import numpy as np
import torch
import typer
import uvicorn

from executor.models import Model
from executor.options import ConfigOptions
from executor.serving.engine.engine_client import EngineClient
from executor.serving.engine.engine_process import SWITCH_S, tell_the_end, work
from executor.serving.http.app import build_app
from executor.serving.server import Server, listener_at, read_prompts
from executor.serving.service import Rules, Service
from executor.session import ModelOptions, open_session
from executor.steps.runner import Batch
from experiments.studykit.http_client import HOST, asked
from superinfer.lab.config import Config

SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Case:
    """So many requests at once."""

    streams: int
    tokens: int
    step_s: float
    whole: bool
    """Each answer in one piece, at its end."""


@dataclass(frozen=True)
class Cost:
    """What they took."""

    step_ms: float
    """Median time between two steps of all requests."""
    engine_ms: float
    """Processor time of the engine's process, a step."""
    server_ms: float


def main(
    streams: Annotated[str, typer.Option()] = "1,32,128,256",
    tokens: Annotated[int, typer.Option()] = 300,
    step_ms: Annotated[float, typer.Option()] = 8.0,
) -> None:
    """Measure, and print a table in Markdown."""
    print("| requests | replies | step (ms) | engine's process (ms) | server's process (ms) |")
    print("|--:|---|--:|--:|--:|")
    for count in map(int, streams.split(",")):
        for whole in (True, False):
            cost = measure(Case(count, tokens, step_ms / 1000, whole))
            told = "whole" if whole else "streamed"
            figures = f"{cost.step_ms:.2f} | {cost.engine_ms:.2f} | {cost.server_ms:.2f}"
            print(f"| {count} | {told} | {figures} |", flush=True)


def measure(case: Case) -> Cost:
    """One case with processes of its own."""
    config = ConfigOptions(device="cpu", kv_blocks=32 * case.streams, lag=1).load()
    with _engine(config, case) as (connection, told), listener_at(HOST, 0) as listener:
        (facts,) = connection.recv()
        engine, classes = EngineClient(connection, facts), config.service_classes()
        service = Service(engine, read_prompts(config, None), classes, Rules("tiny"))
        settings = uvicorn.Config(build_app(service), log_config=None, access_log=False)
        server = Server(settings, service, listener)
        clients = threading.Thread(target=_ask_and_end, args=(server, listener, case))
        clients.start()
        began_s = time.process_time()
        server.run(sockets=[listener])
        server_s = time.process_time() - began_s
        clients.join()
        if engine.error is not None:
            raise engine.error
        ends, engine_s = told.recv()
    together = np.diff([end_s for end_s, rows in ends if rows == case.streams])
    steps = len(ends)
    return Cost(1e3 * float(np.median(together)), 1e3 * engine_s / steps, 1e3 * server_s / steps)


# -- the engine -----------------------------------------------------------------------------------


@dataclass
class WaitingRunner:
    """A device whose steps take the same time each and no work of the host."""

    step_s: float
    model: Model
    ends: list[tuple[float, int]] = field(default_factory=list)
    """When steps were over, and how many requests got a token."""
    asynchronous = alone = True
    device = torch.device("cpu")

    def rehearse(self, batch: Batch) -> None:
        """There is nothing to get ready."""

    def launch(self, batch: Batch) -> Waiting:
        """Queue a step."""
        last_s = self.ends[-1][0] if self.ends else 0.0
        rows = len(batch.decodes) + sum(chunk.wants_logits for chunk in batch.chunks)
        end_s = max(last_s, time.perf_counter()) + self.step_s
        self.ends.append((end_s, rows))
        return Waiting(end_s, rows)


@dataclass(frozen=True)
class Waiting:
    """A step under way."""

    end_s: float
    rows: int

    def wait(self) -> list[int]:
        """Its tokens, letters of the alphabet."""
        time.sleep(max(0.0, self.end_s - time.perf_counter()))
        return [97 + (row + int(1e4 * self.end_s)) % 26 for row in range(self.rows)]


@contextmanager
def _engine(config: Config, case: Case) -> Iterator[tuple[Connection, Connection]]:
    """A process with such an engine: a connection to it, and one on which it reports in the end."""
    here, there = SPAWN.Pipe()
    hears, tells = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_work, args=(config, case, there, tells))
    process.start()
    there.close()
    try:
        yield here, hears
    finally:
        here.close()
        process.join()


def _work(config: Config, case: Case, connection: Connection, tells: Connection) -> None:
    sys.setswitchinterval(SWITCH_S)
    session = open_session(config, ModelOptions())
    runner: Any = WaitingRunner(case.step_s, session.model)
    session.runner = runner
    prompts = read_prompts(config, None)
    before_s = time.process_time()
    tell_the_end(connection, partial(work, session, prompts.tokenizer, connection, {}))
    tells.send((runner.ends, time.process_time() - before_s))


# -- the clients ----------------------------------------------------------------------------------


def _ask_and_end(server: Server, listener: socket.socket, case: Case) -> None:
    """Let all ask once the server listens, and end it when they have their answers."""
    while not server.started:
        time.sleep(0.01)
    process = SPAWN.Process(target=_clients, args=(listener.getsockname()[1], case))
    process.start()
    process.join()
    server.should_exit = True


def _clients(port: int, case: Case) -> None:
    async def ask_all() -> None:
        await asyncio.gather(*(_ask(port, case) for _ in range(case.streams)))

    asyncio.run(ask_all())


async def _ask(port: int, case: Case) -> None:
    """Read one answer to its end."""
    body = {"prompt": [5, 6, 7, 8], "max_tokens": case.tokens, "stream": not case.whole}
    async with asked(port, "/v1/completions", {**body, "ignore_eos": True}) as reply:
        while await reply.read(1 << 16):
            pass


if __name__ == "__main__":
    typer.run(main)
