"""Shared set-up of the tests of `superinfer-sim`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Cli, caller
from inline_engine import Inline
from short_trace import TRACE

from sim.cli.app import main
from superinfer.lab.studies import engines

Command = Callable[..., tuple[int, str, str]]
CommandLines = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, from which schedulers may be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture
def short_trace_folder(work_folder: Path) -> Path:
    """The same with a small trace in it, `t.jsonl`."""
    (work_folder / "t.jsonl").write_text(TRACE)
    return work_folder


@pytest.fixture
def chat_trace() -> Callable[[int], str]:
    """A trace of 40 chat requests, one every so many ms."""
    record = {"input_length": 2000, "output_length": 20, "class": "chat"}
    return lambda every_ms: "".join(
        json.dumps({"timestamp": every_ms * i, **record}) + "\n" for i in range(40)
    )


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> Inline:
    """Runs of a study are made in this process."""
    engine = Inline()
    monkeypatch.setattr(engines, "engine_of", lambda *_: engine)
    return engine


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Call the command line in this process."""
    return caller(main, "superinfer-sim", monkeypatch, capsys)


@pytest.fixture
def command(cli: Cli) -> Command:
    """The same: its exit code, standard output and standard error."""

    def called(*arguments: str) -> tuple[int, str, str]:
        answer = cli(*arguments)
        return answer.code, answer.out, answer.err

    return called


@pytest.fixture
def command_lines(command: Command) -> CommandLines:
    """The same with standard error as lines."""

    def called(*arguments: str) -> tuple[int, str, list[str]]:
        code, out, err = command(*arguments)
        return code, out, err.splitlines()

    return called
