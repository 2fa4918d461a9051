"""A short trace, and commands on it in a process of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from commands import Answer

REPOSITORY = Path(__file__).resolve().parents[1]

RECORD = '{{"timestamp":{at},"input_length":{prompt},"output_length":{answer},"class":"{name}"}}\n'
CLASSES = ("chat", "code", "batch")
TRACE = "".join(
    RECORD.format(at=40 * i, prompt=200 + 37 * i, answer=5 + i, name=CLASSES[i % 3])
    for i in range(12)
)


def process(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start the command line as a process of its own."""
    return python("-m", "sim", *arguments, **options)


def python(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **options.pop("env", {})}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, *arguments], env=environment, **options)


def finished(running: subprocess.Popen[bytes], stdin: bytes | None = None) -> Answer:
    out, err = running.communicate(stdin, timeout=60)
    return Answer(running.returncode, (out or b"").decode(), (err or b"").decode())


def only_error(answer: Answer, code: int, *words: str) -> None:
    """Assert one error line with these words, and nothing else."""
    assert (answer.code, answer.out) == (code, ""), answer
    assert re.fullmatch(r"error: [^\n]+\n", answer.err), answer.err
    for word in words:
        assert word in answer.err


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
