"""Letters on their way to the other process."""

from __future__ import annotations

import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any


class Outbox:
    """Sends letters in a thread of its own, so that who writes one never waits for the pipe. What
    comes while a list is on its way goes with the next: a step's tokens travel together.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._letters: SimpleQueue[Any] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def put(self, letter: Any) -> None:
        """Send it soon; from any thread."""
        self._letters.put(letter)

    def close(self, longest_s: float | None = None) -> None:
        """Come back when all is sent, nobody is there to read it, or it takes too long."""
        self._letters.put(None)
        self._thread.join(longest_s)

    def _run(self) -> None:
        # The other process is gone, and who reads from it knows; or the connection was closed here
        # in the middle of a letter.
        with suppress(OSError, TypeError):
            letters: list[Any] = []
            while None not in letters[-1:]:
                letters = [self._letters.get()]
                while not self._letters.empty():
                    letters.append(self._letters.get())
                self._connection.send([letter for letter in letters if letter is not None])
