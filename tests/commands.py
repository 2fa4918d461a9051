"""A command line called in this process, and what it gave back."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
from typer.testing import CliRunner


@dataclass
class Answer:
    """What a command gave back."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Ended:
    """What a command gave back, by the names that typer's runner has for it."""

    exit_code: int
    stdout: str
    stderr: str


def superinfer_sim(*arguments: object, stdin: str | None = None) -> Ended:
    """Calls `superinfer-sim`, which says itself what is wrong, with streams of its own."""
    from sim.cli.app import main

    argv = ["superinfer-sim", *map(str, arguments)]
    with CliRunner().isolation(stdin) as (out, err, _), mock.patch.object(sys, "argv", argv):
        with pytest.raises(SystemExit) as stopped:
            main()
        sys.stdout.flush()
        sys.stderr.flush()
        printed = [stream.getvalue().decode() for stream in (out, err)]
    return Ended(int(stopped.value.code or 0), *printed)


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
