"""What was asked of a server, as a trace: to be simulated, or asked once more."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

from executor.serving.letters import Ended
from superinfer.errors import ConfigError
from superinfer.outputs import check_writable
from superinfer.request import Request
from traces.convert import lines_of, record_of


class Recording:
    """Writes requests down as they end, in the order in which they arrived.

    One that got no token is left out, for nobody knows how long its answer would have been.
    """

    def __init__(self, path: Path | None) -> None:
        """Nowhere if `path` is None. ConfigError if it is there already. The file is made with the
        first request, so that a server which does not start leaves none.
        """
        if path is not None:
            if path.exists():
                raise ConfigError(f"--record: {path} is there already")
            check_writable(path)
        self._path = path
        self._file: IO[bytes] | None = None
        self._ended: dict[int, tuple[Request, Ended]] = {}
        """Those that have ended before an earlier one."""
        self._next = 0
        """Index of the earliest request that has not ended."""
        self.written = self.left_out = 0

    def add(self, request: Request, ended: Ended) -> None:
        """A request is over."""
        if self._path is None:
            return
        self._ended[ended.index] = request, ended
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("xb")
            while (first := self._ended.pop(self._next, None)) is not None:
                self._write(*first)
                self._next += 1
            self._file.flush()
        except OSError as error:  # answers are worth more than their record
            print(f"warning: --record: {error.strerror}: no more is written", file=sys.stderr)
            self._close()
            self._path = None

    def close(self) -> None:
        """Nothing more comes; say what there is."""
        if self._path is not None:
            self._close()
            rest = f"; {self.left_out} without a token are left out" if self.left_out else ""
            print(f"{self.written} requests in {self._path}{rest}", file=sys.stderr)

    def _close(self) -> None:
        """Keep what is on the disk."""
        self._ended.clear()
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def _write(self, request: Request, ended: Ended) -> None:
        if not ended.output_tokens:
            self.left_out += 1
            return
        assert self._file is not None
        self._file.write(lines_of([record_of(request, ended.output_tokens, request.max_tokens)]))
        self.written += 1
