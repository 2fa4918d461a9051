"""`superinfer-exec serve`: a model behind HTTP until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from executor.models.config import read_config
from executor.models.tokenizer import load_tokenizer
from executor.serving.chat import load_template
from executor.serving.engine.engine_client import STOP_S, EngineClient
from executor.serving.engine.engine_process import engine_process
from executor.serving.engine.letters import Facts
from executor.serving.http.app import build_app
from executor.serving.prompts import Prompts
from executor.serving.recording import Recording
from executor.serving.service import Rules, Service
from executor.session import ModelOptions, source_of
from executor.workload import refuse_simulated, unheeded_by_servers
from superinfer.errors import ConfigError
from superinfer.lab.cli.complaints import INTERRUPTED
from superinfer.lab.cli.terminal import say
from superinfer.lab.config import Config

MOST_CONNECTING = 2048
"""Connections that nobody has accepted yet."""
LOOK_EVERY_S = 1.0
"""Between two looks at how the engine is."""
LAST_WORDS_S = 5.0
"""For clients to take what they are told at the end."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a server listens, and the files that it uses."""

    host: str
    port: int
    record: Path | None = None
    """Trace of what is asked."""
    chat_template: Path | None = None


def serve_command(config: Config, options: ModelOptions, rules: Rules, places: Places) -> int:
    """Serve until SIGTERM or Ctrl-C; returns the exit code."""
    for note in (*config.notes, *unheeded_by_servers(config)):
        say(f"warning: {note}")
    refuse_simulated(config)
    prompts = read_prompts(config, places.chat_template)
    with (
        _listening(places) as listener,
        closing(Recording(places.record)) as recording,
        engine_process(config, options, rules.policies) as (connection, facts),
    ):
        if not facts.measured_costs:
            say(f"warning: {_no_profile(config)}")
        if facts.max_model_len < prompts.most_tokens:
            say(f"warning: {_little_room(facts, prompts)}")
        engine, classes = EngineClient(connection, facts), config.service_classes()
        return _serve(Service(engine, prompts, classes, rules, recording.add), listener)


def read_prompts(config: Config, chat_template: Path | None) -> Prompts:
    """How prompts of a model are read, chats by a template of its own or this one."""
    found, folder = read_config(source_of(config.run.model))
    tokenizer = load_tokenizer(folder, found.shape.vocab)
    template = load_template(chat_template, folder)
    most_tokens = config.run.max_model_len or found.shape.max_model_len
    return Prompts(tokenizer, template, found.shape.vocab, most_tokens)


def settings_of(service: Service) -> uvicorn.Config:
    """How HTTP is served. The longest time to end is for what should not be: connections are closed
    before (`Server.shutdown`).
    """
    return uvicorn.Config(
        build_app(service),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=math.ceil(service.rules.shutdown_s + STOP_S + 2 * LAST_WORDS_S),
    )


def listener_at(host: str, port: int) -> socket.socket:
    """A socket that listens there; OSError where nobody may.

    What is sent goes at once: asyncio sees to that for sockets of its own alone, and for others the
    system holds a small piece back until the one before it is acknowledged, which clients put off
    by some 40 ms.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=MOST_CONNECTING)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # of all that it accepts
    return listener


# -- inside ---------------------------------------------------------------------------------------


def _no_profile(config: Config) -> str:
    run = config.run
    learns = run.learn_step_times is not False
    return (
        f"no profile of {run.model} on {run.device}: schedulers go by nominal step times"
        f"{', until they have learned what steps take' if learns else ''}; "
        "superinfer-exec calibrate makes one for --set run.costs=FILE"
    )


def _little_room(facts: Facts, prompts: Prompts) -> str:
    return (
        f"the KV cache has room for {facts.max_model_len} tokens, the context for "
        f"{prompts.most_tokens}: longer requests are refused"
    )


@contextmanager
def _listening(places: Places) -> Iterator[socket.socket]:
    """The server's socket, before anything slow is done. ConfigError where nobody may listen."""
    try:
        listener = listener_at(places.host, places.port)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        raise ConfigError(f"--host {places.host} --port {places.port}: {reason}") from None
    with listener:
        yield listener


def _serve(service: Service, listener: socket.socket) -> int:
    for name in ("asyncio", "uvicorn.error"):  # not every client that hangs up
        logging.getLogger(name).setLevel(logging.ERROR)
    server = Server(settings_of(service), service, listener)
    for kind in (signal.SIGINT, signal.SIGTERM):  # to the end: what it keeps is closed whole
        signal.signal(kind, server.handle_exit)
    server.run(sockets=[listener])
    if service.engine.error is not None:
        raise service.engine.error
    return INTERRUPTED if signal.SIGINT in server.told else 0


class Server(uvicorn.Server):
    """Uvicorn with an end of our own: told to end, it lets the engine finish what is under way for
    some time, or until it is told again; whoever is left then hears of it.
    """

    def __init__(self, settings: uvicorn.Config, service: Service, listener: socket.socket) -> None:
        super().__init__(settings)
        self._service, self._listener = service, listener
        self._hurry = asyncio.Event()
        self.told: list[int] = []
        """Signals that have come."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        host, port = self._listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        say(f"{self._service.rules.name} at http://{shown}:{port}/v1")
        jobs = self._end_with_engine(), self._look_at_engine()
        self._watching = [asyncio.ensure_future(job) for job in jobs]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take no more requests; the second time, wait for no answers."""
        if self.told:
            self._hurry.set()
        self.told.append(sig)
        self.should_exit = True
        self._service.draining.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close connections as their answers are told, in the end also those of clients that do not
        read on.
        """
        self._service.draining.set()  # also where nobody told the server, but its engine is gone
        ending = asyncio.ensure_future(self._end_engine())
        await super().shutdown(sockets)
        ending.cancel()

    # -- inside ---------------------------------------------------------------------------------

    async def _end_with_engine(self) -> None:
        await self._service.engine.over.wait()
        self.should_exit = True

    async def _look_at_engine(self) -> None:
        while not self._service.engine.over.is_set():
            await self._service.engine.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _end_engine(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), self._service.rules.shutdown_s)
        await self._service.engine.stop()
        await asyncio.sleep(LAST_WORDS_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
