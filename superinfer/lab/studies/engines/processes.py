"""Tasks in worker processes, each in a process that can die without harm to the others."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import current_process
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, ClassVar, Generic

from superinfer.errors import SuperInferError
from superinfer.lab.studies.engines.base import ATTEMPTS, TICK_S, Answer, Died, Task, Tick, no_tick

_UNGUARDED = 78
"""How a worker ends whose script starts tasks while the worker imports it (EX_CONFIG)."""


@dataclass(slots=True, frozen=True)
class Processes:
    """The engine that runs tasks in processes of this machine; `workers` 0: one per core.

    Workers do not hear of Ctrl-C, and what they print goes to standard error. As with every spawned
    process, a script that starts runs has to do so under `if __name__ == "__main__":`.
    """

    workers: int
    shares_files: ClassVar[bool] = True

    def session(self) -> AbstractContextManager[None]:
        """As `StudyEngine.session`; processes need nothing."""
        return nullcontext()

    def run(
        self, function: Callable[[Task], Answer], tasks: Sequence[Task], tick: Tick = no_tick
    ) -> Generator[tuple[int, Answer | Died], None, None]:
        """As `StudyEngine.run`; SuperInferError where no worker can ever begin."""
        if tasks:
            _leave_while_importing_main()
        workers = min(self.workers or default_workers(), len(tasks))
        lanes = [_Lane(function) for _ in range(workers)]
        waiting = list(reversed(range(len(tasks))))
        attempts = [0] * len(tasks)
        try:
            while waiting or any(lane.future for lane in lanes):
                for lane in lanes:
                    if waiting and lane.future is None:
                        lane.start(number := waiting.pop(), tasks[number])
                        attempts[number] += 1
                busy = [lane for lane in lanes if lane.future]
                tick(sorted(lane.number for lane in busy))
                wait([lane.future for lane in busy if lane.future], TICK_S, FIRST_COMPLETED)
                for lane in [lane for lane in busy if lane.future and lane.future.done()]:
                    number, answer = lane.number, lane.take()
                    if isinstance(answer, Died) and attempts[number] < ATTEMPTS:
                        waiting.append(number)
                    else:
                        yield number, answer
        finally:
            for lane in lanes:
                lane.stop()


def default_workers() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# -- inside ---------------------------------------------------------------------------------------


class _Lane(Generic[Task, Answer]):
    """One worker process and its task.

    A pool of one each, because the death of a process breaks its whole pool. The worker ends when
    the write end of its lifeline closes, which happens by itself if this process dies.
    """

    def __init__(self, function: Callable[[Task], Answer]) -> None:
        self._function = function
        self._context = _OneWorker()
        self._pool: ProcessPoolExecutor | None = None
        self._life: Connection | None = None
        self.number = -1
        self.future: Future[Answer] | None = None

    def start(self, number: int, task: Task) -> None:
        """Begin a task, in a fresh process if there is none."""
        pool = self._pool or self._open()
        self.number = number
        with _interrupts_held():  # the new process inherits that it does not hear Ctrl-C
            self.future = pool.submit(self._function, task)

    def take(self) -> Answer | Died:
        """The answer of the task that has ended; SuperInferError if no worker can ever begin."""
        assert self.future is not None
        future, self.future = self.future, None
        try:
            return future.result()
        except BrokenProcessPool:
            self.stop()
            if self._context.exit_code == _UNGUARDED:
                raise SuperInferError(
                    'expected the script to start runs under `if __name__ == "__main__":`, '
                    "because every worker process imports it first"
                ) from None
            return Died()

    def stop(self) -> None:
        """End the worker, whatever it does."""
        if self._pool is None or self._life is None:
            return
        self._life.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._life = self.future = None

    def _open(self) -> ProcessPoolExecutor:
        read_end, self._life = self._context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(
            1, mp_context=self._context, initializer=_prepare_worker, initargs=(read_end,)
        )
        return self._pool


class _OneWorker(SpawnContext):
    """Spawns, and knows how its last process ended, which a pool does not say."""

    _process: SpawnProcess | None = None

    def Process(self, *args: Any, **options: Any) -> SpawnProcess:  # type: ignore[override]
        """As `multiprocessing.Process`; the pool makes its worker with it."""
        self._process = SpawnProcess(*args, **options)
        return self._process

    @property
    def exit_code(self) -> int | None:
        """Of the last process; None before there is one, and while it runs."""
        return None if self._process is None else self._process.exitcode


def _leave_while_importing_main() -> None:
    """In a worker that still imports the main script, end without a word: its parent says why.

    Python would raise here, and print a traceback for every worker.
    """
    if getattr(current_process(), "_inheriting", False):  # what Python itself asks
        sys.exit(_UNGUARDED)


def _prepare_worker(life: Connection) -> None:
    """In a new worker: keep standard output for the result, and end with the lifeline."""
    with suppress(OSError):  # a closed standard error
        os.dup2(2, 1)
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()


def _end_with(life: Connection) -> None:
    try:
        life.recv_bytes()  # nothing is ever sent
    except (EOFError, OSError):
        os._exit(1)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let SIGINT wait until the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
