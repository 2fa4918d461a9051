"""Run the blocks of a page in a scratch folder."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from experiments.documents.blocks import PROMPT, ROOT, RUN, Block, Command, blocks

REQUESTS = 60
"""Of the short trace, about what 20 s of the bundled one hold."""
LIMIT_S = 300
"""For one command, or one block of `sh`."""
PORT = re.compile(r"\b8417\b")
"""In a block of `sh` it stands for a port that is free: others use this machine, too."""
TIMED_OUT = 124
"""The exit code of one that takes longer, as that of the command `timeout`."""
PROGRAMS = {"superinfer-sim": "-m sim", "superinfer-exec": "-m executor", "python": ""}
_TIMES = (
    (re.compile(r"\d{8}-\d{6}(-\d+)?"), "TIME"),
    (re.compile(r"(wall time \(s\) +)[\d.,]+"), r"\1S"),
    (re.compile(r" {2,}"), " "),
    (re.compile("─{2,}"), "─"),
)
"""What differs between two runs of the same command: stamps, times of the machine, and with these
the width of a column."""
_PROGRESS = re.compile(r"\d+ of \d+ runs done|check \d+: |\S+, tp \d+, \d+ replicas?: ")
"""Lines on standard error that come as time goes."""


@dataclass(slots=True)
class Outcome:
    """What became of a block: commands that did not do what the page says."""

    block: Block
    faults: list[str] = field(default_factory=list)
    printed: list[list[str]] = field(default_factory=list)
    """Of each command of a `console` block."""
    failed: bool = False
    """Whether a command ended with another code than the page says."""
    outdated: list[str] = field(default_factory=list)
    """Those of the faults that showing anew would mend: output that is given without `...`."""

    @property
    def unmended(self) -> list[str]:
        """The faults that are left when the block is shown anew, as one that failed never is."""
        return [each for each in self.faults if self.failed or each not in self.outdated]


def scratch(folder: Path) -> None:
    """Put into an empty folder what the pages take for granted."""
    samples = ROOT / "traces" / "samples"
    (folder / "traces").mkdir()
    (folder / "traces" / "samples").symlink_to(samples)
    lines = (samples / "mixed.jsonl").read_text(encoding="utf-8").splitlines()[:REQUESTS]
    (folder / "trace.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    programs = folder / ".bin"
    programs.mkdir()
    for name, module in PROGRAMS.items():
        script = programs / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {module} "$@"\n')
        script.chmod(0o755)


def run_page(page: Path, folder: Path) -> Iterator[Outcome]:
    """Run what can be run of a page in a scratch folder; one outcome for each block that was."""
    scratch(folder)
    python = []
    for block in blocks(page):
        if block.not_run is not None:
            continue
        if "file" in block.comments:
            (folder / block.comments["file"]).write_text(block.text, encoding="utf-8")
        elif block.language in RUN:
            yield _script(block, folder) if block.language == "sh" else _session(block, folder)
        elif block.language == "python":
            python.append(block)
    if python:
        yield _program(python, folder)


def same(shown: list[str], printed: list[str]) -> bool:
    """Whether a page shows what was printed; a line `...` stands for any lines."""
    pieces = ["\n".join(_plain(piece)) for piece in _split(shown)]
    text = "\n".join(_plain(printed))
    if len(pieces) == 1:
        return pieces[0] == text
    if not (text.startswith(pieces[0]) and text.endswith(pieces[-1])):
        return False
    place = len(pieces[0])
    for piece in pieces[1:]:
        place = text.find(piece, place)
        if place < 0:
            return False
        place += len(piece)
    return True


def shown_anew(outcome: Outcome) -> list[str]:
    """The lines of a `console` block with what was printed; output with `...` stays as it is."""
    lines: list[str] = []
    for command, printed in zip(outcome.block.commands(), outcome.printed, strict=True):
        lines += f"{PROMPT}{command.text}".split("\n")
        keep = _abridged(command) or same(command.shown, printed)
        lines += command.shown if keep else printed
    return lines


# -- inside ---------------------------------------------------------------------------------------


def _script(block: Block, folder: Path) -> Outcome:
    outcome = Outcome(block)
    code, printed = _run(PORT.sub(_free_port(), block.text), folder)
    if code != block.exit_code:
        outcome.failed = True
        outcome.faults.append(_ended(block, code, block.text.strip(), printed))
    return outcome


def _program(python: list[Block], folder: Path) -> Outcome:
    """The Python of a page, which goes on from block to block, as one program."""
    text = "".join(f"# {block.where}\n{block.text}" for block in python)
    guarded = (
        f'if __name__ == "__main__":\n{textwrap.indent(text, "    ")}'  # it may start processes
    )
    (folder / "page_program.py").write_text(guarded, encoding="utf-8")
    outcome = Outcome(python[0])
    code, printed = _run("python page_program.py", folder)
    if code:
        outcome.failed = True
        outcome.faults.append(_ended(python[0], code, "the Python of the page", printed))
    return outcome


def _session(block: Block, folder: Path) -> Outcome:
    outcome = Outcome(block)
    commands = block.commands()
    for number, command in enumerate(commands):
        code, printed = _run(command.text, folder)
        outcome.printed.append(printed)
        expected = block.exit_code if number == len(commands) - 1 else 0
        if code != expected:
            outcome.failed = True
            outcome.faults.append(_ended(block, code, command.text, printed))
        elif not same(command.shown, printed):
            outcome.faults.append(_differs(block, command, printed))
            if not _abridged(command):
                outcome.outdated.append(outcome.faults[-1])
    return outcome


def _run(script: str, folder: Path) -> tuple[int, list[str]]:
    """Exit code, and the lines of standard output and behind them those of standard error."""
    path = os.pathsep.join([str(folder / ".bin"), os.environ.get("PATH", os.defpath)])
    given = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    given |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "Agg"}
    given |= {"PYTHONUTF8": "1", "NO_COLOR": "1", "FORCE_COLOR": "", "TTY_COMPATIBLE": "0"}
    try:
        found = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env=given,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return TIMED_OUT, [f"still running after {LIMIT_S} s"]
    said = [line for line in found.stderr.splitlines() if not _PROGRESS.match(line)]
    return found.returncode, _trimmed([*found.stdout.splitlines(), *said])


def _free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def _trimmed(lines: list[str]) -> list[str]:
    """Without blanks at the ends of lines and empty lines at the ends."""
    lines = [line.rstrip() for line in lines]
    while lines and not lines[0]:
        lines.pop(0)
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _plain(lines: list[str]) -> list[str]:
    text = "\n".join(_trimmed(lines))
    for pattern, name in _TIMES:
        text = pattern.sub(name, text)
    return text.split("\n")


def _split(lines: list[str]) -> list[list[str]]:
    pieces: list[list[str]] = [[]]
    for line in lines:
        if line.strip() == "...":
            pieces.append([])
        else:
            pieces[-1].append(line)
    return pieces


def _abridged(command: Command) -> bool:
    """Whether `...` stands for some of the output: nobody knows for which of the new lines."""
    return "..." in command.shown


def _ended(block: Block, code: int, command: str, printed: list[str]) -> str:
    last = "\n".join(printed[-15:])
    return f"{block.where}: exit code {code}, not {block.exit_code}, of\n{command}\n{last}"


def _differs(block: Block, command: Command, printed: list[str]) -> str:
    return f"{block.where}: {command.text}\nprints\n" + "\n".join(printed)
