"""`docs/reference-commands.md`: every command of both programs with every option."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Any

from experiments.documents.known import applications
from experiments.tables.parts import blocks, page_of

_HEAD = """\
# Commands

Every command with its options. Exit codes: 0 ok, 1 the run failed, 2 a mistake in what was asked
for (one line says which), 3 a gate failed (`--require`, `--max-error`), 130 interrupted. Standard
output is a table, or JSON alone with `--json`; progress and warnings go to standard error. This
page is made by `python -m experiments.reference` from the programs themselves; `--help` says the
same."""
_WORDS = {"str": "text", "int": "integer", "float": "number", "bool": "flag", "Path": "path"}


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for program, tree in applications().items():
        parts += [f"## {program}", _help(tree)]
        parts += [_command(name, command) for name, command in _commands(tree, program)]
    return page_of(*parts)


# -- inside ---------------------------------------------------------------------------------------


def _commands(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    """All commands below a group, by their full names, in order."""
    for name, command in sorted(tree.commands.items()):
        if getattr(command, "commands", None):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _command(name: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    return blocks(
        f"### {name}",
        _help(command),
        f"`{' '.join([name, *map(_usage, arguments), '[OPTIONS]'])}`",
        _table([*arguments, *options]),
    )


def _table(parameters: list[Any]) -> Iterator[str]:
    yield "| | value | default | meaning |"
    yield "|---|---|---|---|"
    for each in parameters:
        if not getattr(each, "hidden", False):
            meaning = " ".join((each.help or "").split())
            cells = (_names(each), _value(each), _default(each), meaning)
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _help(command: Any) -> str:
    return " ".join(inspect.cleandoc(command.help or "").split())


def _usage(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper()
    several = argument.nargs == -1 or argument.multiple
    name = f"{name.rstrip('.')}..." if several else name
    return name if argument.required else f"[{name}]"


def _names(each: Any) -> str:
    if each.param_type_name == "argument":
        return f"`{(each.metavar or each.name).upper()}`"
    names = [*each.opts, *each.secondary_opts]
    shown = [f"`{name}`" for name in sorted(names, key=len)]
    if each.metavar:
        shown[-1] = f"`{max(names, key=len)} {each.metavar}`"
    return ", ".join(shown)


def _value(each: Any) -> str:
    if getattr(each, "is_flag", False):
        return "flag"
    kind = each.type_descriptor.annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        words = ", ".join(f"`{member.value}`" for member in kind)
    else:
        words = _WORDS.get(getattr(kind, "__name__", ""), "text")
    low, high = each.min, each.max
    words += f" >= {low:g}" if low is not None else ""
    words += f", <= {high:g}" if high is not None and high < 1e6 else ""
    return f"{words}; repeatable" if each.multiple else words


def _default(each: Any) -> str:
    if isinstance(each.show_default, str):
        plain = "<" not in each.show_default  # which markdown would take for a tag
        return each.show_default if plain else f"`{each.show_default}`"
    default = each.default
    if callable(default):
        default = default()
    if each.required:
        return "required"
    if default is None or default in ("", []):
        return ""
    if getattr(each, "is_flag", False):
        return {True: "on", False: ""}.get(default, "")
    if isinstance(default, Enum):
        default = default.value
    return f"`{default}`"
