"""Whether the commands of a page exist with the options that it gives them, run or not."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

from experiments.documents.blocks import RUN, Block
from experiments.studykit.modules import exists

_SEPARATORS = {"|", "||", "&&", ";", ">", ">>", "<", "2>", "&"}


def unknown(block: Block) -> Iterator[str]:
    """Options and commands that do not exist, in a line each."""
    if block.language not in RUN:
        return
    if block.language == "sh":
        text = block.text
    else:
        text = "\n".join(command.text for command in block.commands())
    for words in _invocations(text):
        fault = _fault(words)
        if fault:
            yield f"{block.where}: {fault}"


@cache
def applications() -> dict[str, Any]:
    """The command trees of both programs, by the names of the programs."""
    from executor.cli import application
    from sim.cli.app import app

    return {"superinfer-sim": _tree(app), "superinfer-exec": _tree(application())}


# -- inside ---------------------------------------------------------------------------------------


def _tree(app: Any) -> Any:
    import typer.main

    return typer.main.get_command(app)


def _invocations(text: str) -> Iterator[list[str]]:
    """The words of each command of a script. Here-documents are taken for commands as well, which
    does no harm: only lines that begin with a program of ours are looked at.
    """
    for line in text.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a quote that ends on another line is no command of ours
            continue
        while words:
            end = next((i for i, word in enumerate(words) if word in _SEPARATORS), len(words))
            if words[:end]:
                yield _without_settings(words[:end])
            words = words[end + 1 :]


def _without_settings(words: list[str]) -> list[str]:
    """Without `NAME=value` in front."""
    first = next((i for i, word in enumerate(words) if "=" not in word), len(words))
    return words[first:]


def _fault(words: list[str]) -> str | None:
    if words[:1] and words[0] in applications():
        return _unknown_option(words)
    module = words[2] if words[:2] == ["python", "-m"] and len(words) > 2 else ""
    if module.startswith("experiments") and not exists(module):
        return f"there is no module {module}"
    return None


def _unknown_option(words: list[str]) -> str | None:
    command, given = applications()[words[0]], words[1:]
    while given and getattr(command, "commands", None):
        if given[0] not in command.commands:
            return f"{words[0]} has no command {given[0]!r}"
        command, given = command.commands[given[0]], given[1:]
    options = {name: each for each in command.params for name in (*each.opts, *each.secondary_opts)}
    rest = iter(given)
    for word in rest:
        name, equals, _ = word.partition("=")
        if not name.startswith("-") or name[1:2].isdigit() or name == "--help":
            continue
        if name not in options:
            return f"{words[0]} {command.name} has no option {name}"
        if not (equals or getattr(options[name], "is_flag", False)):
            next(rest, None)  # its value
    return None
