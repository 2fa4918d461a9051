"""The process of an engine, so that HTTP takes no time from it.

The server starts it, tells it what clients ask for, and hears what is said (`letters`). It ends
when the server says so or is gone; signals are for the server.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from time import perf_counter
from typing import Any

from executor.models.config import read_config
from executor.models.tokenizer import Tokenizer, load_tokenizer
from executor.ranks.processes import ranks_of
from executor.serving.engine.clients import Clients
from executor.serving.engine.engine_thread import EngineThread
from executor.serving.engine.letters import EngineState, Facts, Look, Over, Stop
from executor.serving.engine.outbox import Outbox
from executor.session import ModelOptions, Session, open_session, source_of
from superinfer.costs.calibrated import CalibratedCost
from superinfer.errors import SuperInferError
from superinfer.lab.config import Config
from superinfer.memory.blocks.slabs import NO_SMALL

SWITCH_S = 0.0005
"""After so long, and not Python's 5 ms, the engine's thread gets its turn from those of letters."""
ENDING_S = 5.0
"""For the process to end by itself."""


@contextmanager
def engine_process(
    config: Config, options: ModelOptions, policies: Mapping[str, str]
) -> Iterator[tuple[Connection, Facts]]:
    """An engine that is ready, and what it says of itself; raises what keeps it from that."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_run, args=(there, config, options, policies), name="engine")
    with _no_interrupts():
        process.start()
    there.close()
    try:
        yield here, _facts(here)
        here.close()
        process.join(ENDING_S)
    finally:
        here.close()
        process.terminate()
        process.join(ENDING_S)
        process.kill()
        process.join()


def work(
    session: Session, tokenizer: Tokenizer, connection: Connection, policies: Mapping[str, str]
) -> None:
    """Serve whoever is at the other end, until they say stop or are gone; raises what keeps the
    engine from it. `policies` are names for messages.
    """
    outbox = Outbox(connection)
    clients = Clients(tokenizer, outbox, session.model)
    thread = EngineThread(session, clients, policies)
    outbox.put(_facts_of(session, perf_counter() - thread.clock.read()))
    thread.start()
    for letter in _letters(connection, thread.over):
        if isinstance(letter, Stop):
            break
        if isinstance(letter, Look):
            outbox.put(EngineState.of(session.engine, thread.clock.progress_s))
        else:
            clients.read(letter)
    thread.stop()
    outbox.close()
    if thread.error is not None:
        raise thread.error


def tell_the_end(connection: Connection, work: Callable[[], None]) -> None:
    """Work, and say what has ended it."""
    error = None
    try:
        work()
    except BaseException as found:  # a policy may raise anything
        error = found
    with suppress(OSError):  # nobody is there
        connection.send([Over(_sendable(error))])
        connection.close()


# -- inside ---------------------------------------------------------------------------------------


def _facts(connection: Connection) -> Facts:
    try:
        first = connection.recv()[0]
    except EOFError:
        raise SuperInferError("the engine's process has ended before it was ready") from None
    if isinstance(first, Over):
        assert first.error is not None
        raise first.error
    assert isinstance(first, Facts)
    return first


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back; a process that is started meanwhile never hears of it."""
    resource_tracker.ensure_running()  # first: to start it lets signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(
    connection: Connection, config: Config, options: ModelOptions, policies: Mapping[str, str]
) -> None:
    """What the process does."""
    loading = threading.Event()
    loading.set()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # while it loads
    threading.Thread(target=_end_with_server, args=(loading,), daemon=True).start()
    sys.setswitchinterval(SWITCH_S)

    def load_and_work() -> None:
        try:
            with ranks_of(config, options) as channel:
                session = open_session(config, options, channel=channel)
                found, folder = read_config(source_of(config.run.model))
                tokenizer = load_tokenizer(folder, found.shape.vocab)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                loading.clear()
                work(session, tokenizer, connection, policies)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    tell_the_end(connection, load_and_work)


def _end_with_server(loading: threading.Event) -> None:
    """Do not load for nobody. Once that is done the end of the connection tells; but a device that
    hangs would keep the process, and the process the device's memory.
    """
    server = multiprocessing.parent_process()
    assert server is not None
    server.join()
    if not loading.is_set():
        time.sleep(ENDING_S)
    os._exit(1)


def _facts_of(session: Session, started_s: float) -> Facts:
    engine = session.engine
    return Facts(
        engine.config.block_tokens,
        engine.config.total_blocks,
        _longest(session),
        engine.prefix is not None,
        isinstance(session.cost, CalibratedCost),
        started_s,
    )


def _longest(session: Session) -> int:
    """Most tokens of a request: what no cache has room for would be computed for nothing. How many
    blocks of fewer bits there is room for is not known ahead.
    """
    sizes, context = session.engine.config, session.model.max_model_len
    smaller = sizes.small_block_bytes != NO_SMALL
    return context if smaller else min(context, sizes.total_blocks * sizes.block_tokens)


def _letters(connection: Connection, over: Connection) -> Iterator[Any]:
    """All that come, until nobody is there or the engine has ended."""
    with suppress(EOFError, OSError):
        while over not in wait((connection, over)):
            yield from connection.recv()


def _sendable(error: BaseException | None) -> BaseException | None:
    """An error as another process can have it: one that is not the user's says where it was."""
    if error is not None and not isinstance(error, SuperInferError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return _in_words(error)
    return error if error is None or isinstance(error, Exception) else _in_words(error)


def _in_words(error: BaseException | None) -> SuperInferError:
    return SuperInferError(f"{type(error).__name__}: {error}")
