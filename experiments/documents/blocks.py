"""Fenced blocks of a page, and the comments that say what to do with them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = ("sh", "console")
"""Languages of blocks that hold commands."""
PROMPT = "$ "
OURS = re.compile(
    r"\s*(?:\$ )?(?:\w+=\S+ )*"
    r"(?:superinfer-(?:sim|exec)|(?:\S*/)?(?:python|pip|pytest|make))\b[ \t]*[\w'.-]"
)
"""A line that is a command of ours, whatever the language of its block says."""
_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>\S*)\s*$")
_COMMENT = re.compile(r"^ *<!-- (?P<key>not run|exits with|file)[: ]+(?P<value>.*?) -->\s*$")


@dataclass(slots=True)
class Command:
    """One command of a `console` block, and what the page shows below it."""

    text: str
    shown: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Block:
    """A fenced block: where it stands, its lines without the fences, and its comments."""

    page: Path
    line: int
    """Of the opening fence, from 1."""
    language: str
    lines: list[str]
    comments: dict[str, str]

    @property
    def where(self) -> str:
        """`docs/x.md:12`."""
        page = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page
        return f"{page}:{self.line}"

    @property
    def not_run(self) -> str | None:
        """Why it is not run; None where it is, or where there is nothing to run."""
        return self.comments.get("not run")

    @property
    def exit_code(self) -> int:
        """Of the last command."""
        return int(self.comments.get("exits with", "0"))

    @property
    def text(self) -> str:
        """All lines."""
        return "".join(f"{line}\n" for line in self.lines)

    def commands(self) -> list[Command]:
        """Those of a `console` block; a command goes on behind a backslash at the end of a line."""
        found: list[Command] = []
        open_command = False
        for line in self.lines:
            if open_command:
                found[-1].text += f"\n{line}"
            elif line.startswith(PROMPT):
                found.append(Command(line.removeprefix(PROMPT)))
            elif found:
                found[-1].shown.append(line)
            open_command = (open_command or line.startswith(PROMPT)) and line.endswith("\\")
        return found


def pages() -> list[Path]:
    """The pages whose commands are run: those of `docs/`, and what leads to them or lies beside."""
    others = ("README.md", "CONTRIBUTING.md", "experiments/notebooks/README.md")
    return [*(ROOT / name for name in others), *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page in its order."""
    comments: dict[str, str] = {}
    opened: re.Match[str] | None = None
    block = Block(page, 0, "", [], {})
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened:
            if fence and fence["fence"] == opened["fence"] and not fence["language"]:
                opened = None
                yield block
            else:
                block.lines.append(line.removeprefix(opened["indent"]))
        elif fence:
            opened = fence
            block = Block(page, number, fence["language"], [], comments)
            comments = {}
        elif comment := _COMMENT.match(line):
            comments[comment["key"]] = comment["value"]
        elif line.strip():
            comments = {}
    if opened:
        raise ValueError(f"{block.where}: the block is not closed")


def faults(page: Path) -> Iterator[str]:
    """What keeps the commands of a page from being run or marked, in a line each."""
    yield from _indented(page)
    for block in blocks(page):
        commands = [line for line in block.lines if OURS.match(line)]
        if commands and block.language not in RUN and "file" not in block.comments:
            yield f"{block.where}: commands in a block that is neither sh nor console"
        if block.language == "console" and not block.commands():
            yield f"{block.where}: no command behind `{PROMPT}`"
        if block.not_run is not None and len(block.not_run) < 5:
            yield f"{block.where}: no reason why it is not run"


# -- inside ---------------------------------------------------------------------------------------


def _indented(page: Path) -> Iterator[str]:
    """Commands in a block that is set off by blanks alone."""
    fenced, before = False, ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fenced ^= bool(_FENCE.match(line))
        if not fenced and not before.strip() and line.startswith("    ") and OURS.match(line):
            yield f"{page.name}:{number}: a command in an indented block; fence it"
        before = line
