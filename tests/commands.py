"""A command line called in this process, and what it gave back."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass
class Answer:
    """What a command gave back."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Answer]


def caller(
    main: Callable[[], object],
    program: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    """Calls `main` of a program, which ends with an exit code."""

    def call(*arguments: object, stdin: bytes | None = None) -> Answer:
        monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return Answer(int(stopped.value.code or 0), captured.out, captured.err)

    return call
