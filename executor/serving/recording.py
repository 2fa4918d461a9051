"""What was asked of a server, as a trace: to be simulated, or asked once more.

A trace is in the order of arrival, so a line waits until all that came before have ended. Meanwhile
it stands in a file beside the record (`held_file`), in case that the server is killed.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import IO

from executor.serving.engine.letters import Ended
from superinfer.errors import ConfigError
from superinfer.lab.cli.terminal import say
from superinfer.outputs import check_writable
from superinfer.request import Request
from traces.convert import lines_of, record_of


def held_file(record: Path) -> Path:
    """Where lines of a record are that wait for an earlier request; also some that do not any more,
    for it is emptied only when none waits. A server that ends by itself leaves none, unless it
    could not write any more.
    """
    return record.with_name(f"{record.name}.held")


class Recording:
    """Writes requests down as they end, in the order in which they arrived.

    One that got no token is left out, for nobody knows how long its answer would have been.
    """

    def __init__(self, path: Path | None) -> None:
        """Nowhere if `path` is None. ConfigError if it is no file, or is there already, or what one
        that was killed held back. Files are made with the first request, so that a server which
        does not start leaves none.
        """
        if path is not None:
            _check_free(path)
            check_writable(path)
        self._path = path
        self._file: IO[bytes] | None = None
        self._held: IO[bytes] | None = None
        self._ended: dict[int, bytes] = {}
        """Lines of those that have ended before an earlier one; empty: of one that is left out."""
        self._next = 0
        """Index of the earliest request that has not ended."""
        self.written = self.left_out = 0

    def add(self, request: Request, ended: Ended) -> None:
        """A request is over."""
        if self._path is None:
            return
        line = b""
        if ended.output_tokens:
            line = lines_of([record_of(request, ended.output_tokens, request.max_tokens)])
        self._ended[ended.index] = line
        try:
            self._put(self._path, ended.index, line)
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Nothing more comes, also of those for whom others wait; say what there is."""
        if self._path is None:
            return
        try:
            for index in sorted(self._ended):
                self._write(self._ended.pop(index))
            self._close()
            if self._held is not None:
                held_file(self._path).unlink(missing_ok=True)
        except OSError as error:
            self._give_up(error)
            return
        rest = f"; {self.left_out} without a token are left out" if self.left_out else ""
        say(f"{self.written} requests in {self._path}{rest}")

    # -- inside ---------------------------------------------------------------------------------

    def _put(self, path: Path, index: int, line: bytes) -> None:
        """Write what need not wait any more, or hold a line back."""
        if self._file is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb")
        if index != self._next:
            self._hold(path, line)
            return
        while (first := self._ended.pop(self._next, None)) is not None:
            self._write(first)
            self._next += 1
        self._file.flush()
        if not self._ended and self._held is not None:
            self._held.truncate(0)

    def _hold(self, path: Path, line: bytes) -> None:
        """At the end of what is held back, whatever was cut off before."""
        if self._held is None:
            self._held = held_file(path).open("ab")
        self._held.write(line)
        self._held.flush()

    def _write(self, line: bytes) -> None:
        if not line:
            self.left_out += 1
            return
        assert self._file is not None
        self._file.write(line)
        self.written += 1

    def _give_up(self, error: OSError) -> None:
        """Answers are worth more than their record; what is on the disk stays there."""
        say(f"warning: --record: {error.strerror}: no more is written")
        self._path = None
        self._ended.clear()
        with suppress(OSError):
            self._close()

    def _close(self) -> None:
        for file in (self._file, self._held):
            if file is not None:
                file.close()


def _check_free(path: Path) -> None:
    """ConfigError if there is a record or what one held back, if the name is longer than a file's
    may be, or if it is that of standard output.
    """
    if str(path) == "-":
        raise ConfigError("--record: expected a file, got -")
    try:
        taken = path if path.exists() else held_file(path)
        if taken.exists():
            raise ConfigError(f"--record: {taken} is there already")
    except OSError as error:
        raise ConfigError(f"--record: {path}: {error.strerror}") from None
