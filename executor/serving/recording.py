"""What was asked of a server, as a trace: to be simulated, or asked once more."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from executor.serving.streams import Ended
from superinfer.errors import ConfigError
from traces.convert import lines_of, record_of


class Recording:
    """Writes requests down as they end, in the order in which they arrived.

    One that got no token is left out, for nobody knows how long its answer would have been.
    """

    def __init__(self, file: IO[bytes] | None) -> None:
        self._file = file
        self._ended: dict[int, Ended] = {}
        """Those that have ended before an earlier one."""
        self._next = 0
        """Index of the earliest request that has not ended."""
        self.written = self.left_out = 0

    @classmethod
    @contextmanager
    def to(cls, path: Path | None) -> Iterator[Recording]:
        """Into a new file; nowhere if `path` is None. ConfigError if it is there already."""
        if path is None:
            yield cls(None)
            return
        if path.exists():
            raise ConfigError(f"--record: {path} is there already")
        with path.open("xb") as file:
            recording = cls(file)
            yield recording
        print(recording.note(path), file=sys.stderr)

    def add(self, ended: Ended) -> None:
        """A request is over."""
        if self._file is None:
            return
        self._ended[ended.request.index] = ended
        try:
            while (first := self._ended.pop(self._next, None)) is not None:
                self._write(first)
                self._next += 1
            self._file.flush()
        except OSError as error:  # answers are worth more than their record
            print(f"warning: --record: {error.strerror}: no more is written", file=sys.stderr)
            self._give_up()

    def note(self, path: Path) -> str:
        """What has become of it, in a line."""
        rest = f"; {self.left_out} without a token are left out" if self.left_out else ""
        return f"{self.written} requests in {path}{rest}"

    def _give_up(self) -> None:
        """Keep what is on the disk."""
        assert self._file is not None
        file, self._file = self._file, None
        self._ended.clear()
        with suppress(OSError):
            file.close()

    def _write(self, ended: Ended) -> None:
        if not ended.output_tokens:
            self.left_out += 1
            return
        assert self._file is not None
        request = ended.request
        self._file.write(lines_of([record_of(request, ended.output_tokens, request.max_tokens)]))
        self.written += 1
