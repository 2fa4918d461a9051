"""Files that can be read once only."""

from __future__ import annotations

from pathlib import Path

from superinfer.errors import InputError


def refuse_pipe(path: Path) -> None:
    """InputError for a pipe: settings are read again for every arm and every process, and nothing
    comes out of a pipe the second time.
    """
    if path.is_fifo():
        raise InputError("expected a file, got a pipe, which can be read only once", file=str(path))
