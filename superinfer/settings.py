"""`key.key=value` settings as nested tables, and words for what is wrong with one."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Collection, Iterable
from numbers import Integral
from typing import Any, TypeGuard

from superinfer.errors import ConfigError


def parse_settings(settings: Iterable[str], sections: Collection[str] = ()) -> dict[str, Any]:
    """The nested tables of `--set` texts; a value is TOML, or else text.

    With `sections`, a key begins with one of them and has at least one more part.
    """
    tables: dict[str, Any] = {}
    form = "section.key=value" if sections else "key=value"
    for setting in settings:
        key, equals, text = setting.partition("=")
        parts = _key_parts(key)
        if not equals or len(parts) < (2 if sections else 1):
            raise ConfigError(f"--set {setting!r}: expected {form}")
        if sections and parts[0] not in sections:
            raise ConfigError(unknown(f"--set {setting!r}", parts[0], sections, "sections are"))
        _put(tables, setting, parts, _value(text.strip()))
    return tables


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or nothing when no known name is close. What begins with the key is
    closer than what merely looks a little like it: `a100` means `a100-80g` and not `h100`.
    """
    from difflib import get_close_matches

    names = {name.lower(): name for name in known}
    word = key.lower()
    begun = [name for name in names if len(word) > 1 and name.startswith(word)]
    typo = [word] if word in names else get_close_matches(word, names, 1, _ALMOST)
    close = typo or begun or get_close_matches(word, names, 1)
    meant = " or ".join(repr(names[name]) for name in close[:_MOST_MEANT])
    return f" (did you mean {meant}?)" if close else ""


def unknown(what: str, key: str, known: Iterable[str], lead: str) -> str:
    """One line about a key that is not known: where, what may be meant, and what there is."""
    names = sorted(known)
    there = ", ".join(names) or "nothing"
    return f"{what}: unknown{did_you_mean(key, names)}; {lead}: {there}"


def shown_value(value: object) -> str:
    """A value in a complaint, cut off where it is long. It may be of any kind: what a policy of the
    user's answers, a number with more digits than Python writes.
    """
    try:
        text = repr(value)
    except Exception:
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."


def is_integer(value: object) -> TypeGuard[int]:
    """True for an integer, also one of numpy; no flag is one."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object, least: float = -sys.float_info.max) -> TypeGuard[float]:
    """True for a number from `least` on that a float holds and that is finite; no flag is one."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and least <= value <= sys.float_info.max
    )


def expected_words(message: str) -> str | None:
    """What a refusal by msgspec expected: "an integer >= 1" for "Expected `int` >= 1"; None where
    it names no kind of value.
    """
    ranged, length, kinds = (found.match(message) for found in (_RANGE, _LENGTH, _KIND))
    if ranged:
        bound = ranged[3] if ranged[1] == "int" else f"{float(ranged[3]):.12g}"
        return f"{kind_words([ranged[1]])} {ranged[2]} {bound}"
    if length:
        return f"{kind_words([length[1]])} of {'at least ' if length[2] else ''}{length[3]}"
    return kind_words(kinds[1].split(" | ")) if kinds else None


def kind_words(kinds: Iterable[str]) -> str:
    """msgspec's names of kinds in plain words: "an integer or a text" for `int` and `str`."""
    names = [kind for kind in kinds if kind != "null"]
    words = [_WORDS.get(name, name) for name in names if name != "int" or "float" not in names]
    return " or ".join(dict.fromkeys(words))


# -- inside ---------------------------------------------------------------------------------------


_SHOWN_CHARACTERS = 60
_MOST_MEANT = 3
"""Names that begin with a key, so many are shown."""
_ALMOST = 0.9
"""Likeness (difflib's) of names that differ by a slip of the finger."""
_WORDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "object": "a table",
    "array": "a list",
}
_RANGE = re.compile(r"Expected `(\w+)` (<=|>=|<|>) (\S+)")
_LENGTH = re.compile(r"Expected `(\w+)` of length (>= )?(\d+)")
_KIND = re.compile(r"Expected `([^`]+)`, got `")


def _key_parts(key: str) -> list[str]:
    """The parts of a dotted TOML key, which may be quoted; none for what is no key."""
    try:
        table: Any = tomllib.loads(f"{key.strip()} = 0")
    except (ValueError, RecursionError):
        return []
    parts = []
    while isinstance(table, dict) and len(table) == 1:
        ((part, table),) = table.items()
        parts.append(part)
    return parts if table == 0 else []


def _put(tables: dict[str, Any], setting: str, parts: list[str], value: Any) -> None:
    table: Any = tables
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {setting!r}: {part} is not a table")
    table[parts[-1]] = value


def _value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return table["value"] if len(table) == 1 else text
