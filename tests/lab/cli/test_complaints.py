"""What is said of what the system refuses."""

from __future__ import annotations

import errno
import os

import pytest

from superinfer.lab.cli.complaints import reason_of

FULL = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, FULL), FULL),
        (OSError(errno.ENOSPC, FULL, "a.json"), f"a.json: {FULL}"),
        (OSError("the pipe is gone"), "the pipe is gone"),
        (MemoryError(), "out of memory"),
        (MemoryError("for an array"), "out of memory: for an array"),
    ],
)
def test_reasons_are_words_without_numbers(error: OSError | MemoryError, words: str) -> None:
    assert reason_of(error) == words
