"""The engine as a server has it, when it does not do what it should."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, cast

import pytest
from serving_kit import PATIENCE_S, ended

from executor.serving.engine import engine_client
from executor.serving.engine.engine_client import EngineClient
from executor.serving.engine.engine_process import tell_the_end
from executor.serving.engine.letters import Ask, EngineState, Facts, Look, Over, Stop
from executor.serving.streams import Stream
from superinfer.errors import ConfigError, SuperInferError

FACTS = Facts(32, 100, 1000, True, False, 0.0)


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Connection, Connection]]:
    """Both ends of a connection, of which the engine's is in the hands of the test: it is waited
    for however slow the machine is.
    """
    monkeypatch.setattr(engine_client, "STOP_S", PATIENCE_S)
    monkeypatch.setattr(engine_client, "LOOK_S", PATIENCE_S)
    here, there = Pipe()
    yield here, there
    here.close()
    there.close()


class Heard:
    """In place of a stream."""

    output_tokens = 0
    request = ended()[0]

    def __init__(self, faulty: bool = False) -> None:
        self.faulty, self.tokens = faulty, list[int]()
        self.ended: Any = None

    def hear(self, token: int, text: str | None, time_s: float) -> None:
        """Take a token, or fail."""
        if self.faulty:
            raise ZeroDivisionError
        self.tokens.append(token)

    def end(self, ended: Any) -> None:
        """It is over."""
        self.ended = ended


def asked(client: EngineClient, heard: Heard) -> int:
    """Send a request; returns its index."""
    ask = Ask(client.new_index(), "a", 0.0, cast(Any, None))
    client.send(ask, cast(Stream, heard))
    return ask.index


def test_an_engine_that_hangs_is_given_up(
    ends: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that is full of what nobody reads keeps nobody, either."""
    monkeypatch.setattr(engine_client, "STOP_S", 0.05)
    monkeypatch.setattr(engine_client, "LOOK_S", 0.05)

    async def run() -> None:
        client = EngineClient(ends[0], FACTS)
        client.start()
        heard = Heard()
        asked(client, heard)
        client._outbox.put(b"x" * 10_000_000)
        assert await client.look() == EngineState()
        await client.stop()
        assert "has not ended its step" in str(client.error)
        assert heard.ended.outcome == "unfinished" and not client.number

    asyncio.run(asyncio.wait_for(run(), PATIENCE_S))


def test_a_letter_that_cannot_be_taken_keeps_no_other(ends: tuple[Connection, Connection]) -> None:
    async def run() -> None:
        client = EngineClient(ends[0], FACTS)
        client.start()
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        bad, good = Heard(faulty=True), Heard()
        first, second = asked(client, bad), asked(client, good)
        ends[1].send([(first, 7, None, 0.0), (second, 8, None, 0.0)])
        while not good.tokens:
            await asyncio.sleep(0)
        ends[1].send([Over()])
        await client.over.wait()
        assert bad.ended is not None and good.ended is not None

    asyncio.run(asyncio.wait_for(run(), PATIENCE_S))


def test_what_cannot_be_read_ends_it(ends: tuple[Connection, Connection]) -> None:
    async def run() -> None:
        client = EngineClient(ends[0], FACTS)
        client.start()
        ends[1].send_bytes(b"no pickle")
        await client.over.wait()
        assert "what the engine says cannot be read" in str(client.error)

    asyncio.run(asyncio.wait_for(run(), PATIENCE_S))


def test_who_stops_and_looks_is_answered(ends: tuple[Connection, Connection]) -> None:
    async def run() -> None:
        client = EngineClient(ends[0], FACTS)
        client.start()
        looking = asyncio.ensure_future(client.look())
        assert await asyncio.to_thread(ends[1].recv) == [Look()]
        ends[1].send([EngineState(running=3)])
        assert (await looking).running == 3
        stopping = asyncio.ensure_future(client.stop())
        assert await asyncio.to_thread(ends[1].recv) == [Stop()]
        ends[1].send([Over()])
        await stopping
        assert client.error is None

    asyncio.run(asyncio.wait_for(run(), PATIENCE_S))


class Local(Exception):
    """It cannot be pickled: it needs two arguments and tells one."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(one + two)


@pytest.mark.parametrize(
    ("raised", "told", "text"),
    [
        (ConfigError("no"), ConfigError, "no"),
        (Local(1, 2), SuperInferError, "Local: 3"),
        (SystemExit(0), SuperInferError, "SystemExit: 0"),
        (KeyboardInterrupt(), SuperInferError, "KeyboardInterrupt: "),
        (ZeroDivisionError("by zero"), ZeroDivisionError, "by zero"),
    ],
)
def test_what_ends_an_engine_is_told(raised: BaseException, told: type, text: str) -> None:
    here, there = Pipe()

    def fail() -> None:
        raise raised

    tell_the_end(there, fail)
    (over,) = here.recv()
    assert type(over.error) is told and str(over.error) == text
    assert told is not ZeroDivisionError or "in fail" in over.error.__notes__[0]
