"""What is wrong with a table, in one line: the field, what was expected there, what was found."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec.inspect import Field, LiteralType, StructType, Type, UnionType, type_info

from superinfer.settings import did_you_mean, expected_words, kind_words

T = TypeVar("T")

_AT = re.compile(r" - at `\$\.?(.*)`$")
_PART = re.compile(r"(\w+)|\[(\d+)\]|\[\.\.\.\]")
_SHOWN_CHARACTERS = 60


class Fault(Exception):
    """A fault of a table: the dotted field, empty for the table as a whole, and one line."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field, self.text = field, text

    def under(self, prefix: str) -> Fault:
        """The same fault of a table that stands in another one."""
        return Fault(".".join(filter(None, (prefix, self.field))), self.text)


def convert(table: Mapping[str, Any], kind: type[T]) -> T:
    """The struct that a TOML table stands for; else `Fault`."""
    try:
        return msgspec.convert(table, kind)
    except (msgspec.ValidationError, OverflowError, RecursionError) as error:
        raise _fault(str(error), table, kind) from None


def shown(value: object) -> str:
    """`value` on one line and not too long."""
    if isinstance(value, Mapping | list):
        kind = "table" if isinstance(value, Mapping) else "list"
        return f"a {kind} of {len(value)}" if value else f"an empty {kind}"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."


def _fault(message: str, table: Mapping[str, Any], kind: type) -> Fault:
    at = _AT.search(message)
    field, text = (at[1] if at else ""), _AT.sub("", message)
    infos, value = _walk(field, table, kind)
    for mark, explain in _EXPLAIN.items():
        found = re.match(mark, text)
        if found:
            name, words = explain(found[1], _fitting(infos, value))
            return Fault(".".join(filter(None, (field, name))), words)
    if text.startswith(("Expected", "Invalid")):
        choices = _one_of(_choices(infos)) if text.startswith("Invalid") else None
        wanted = choices or expected_words(text) or "another value"
        return Fault(field, f"expected {wanted}, got {shown(value)}")
    own = re.match(r"([\w.]+): (.*)", text)  # from a `__post_init__`
    return Fault(field, text) if own is None else Fault(own[1], own[2]).under(field)


def _unknown(key: str, infos: list[Type]) -> tuple[str, str]:
    known = list(_fields(infos))
    hint = did_you_mean(key, known)
    return key, f"unknown key{hint}; expected one of {', '.join(known)}"


def _missing(key: str, infos: list[Type]) -> tuple[str, str]:
    if key in _fields(infos):
        return key, f"expected {_kind_words([_fields(infos)[key].type])}, got nothing"
    return key, f"expected one of {', '.join(_tags(infos))}, got nothing"


_EXPLAIN = {
    r"Object contains unknown field `(.*)`": _unknown,
    r"Object missing required field `(.*)`": _missing,
}


def _one_of(choices: list[str]) -> str:
    return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]


def _kind_words(infos: list[Type]) -> str:
    names = {
        "IntType": "int",
        "FloatType": "float",
        "StrType": "str",
        "BoolType": "bool",
        "StructType": "object",
        "DictType": "object",
    }
    choices = _choices(_members(infos)) if any(isinstance(i, LiteralType) for i in infos) else []
    if choices:
        return _one_of(choices)
    return kind_words(names.get(type(info).__name__, "array") for info in _members(infos))


# -- the type of a field --------------------------------------------------------------------------


def _walk(field: str, table: Any, kind: type) -> tuple[list[Type], Any]:
    """The types that may stand at a field, and the value that does."""
    infos, value = [type_info(kind)], table
    for found in _PART.finditer(field):
        name, position = found.groups()
        infos = _inner(infos, name, value)
        if name is None and position is None:
            return infos, value
        value = value.get(name) if name else value[int(position)]
    return infos, value


def _inner(infos: list[Type], name: str | None, value: Any) -> list[Type]:
    if name is None:
        inner = [getattr(info, "item_type", None) for info in _members(infos)]
        return [info for info in inner if info is not None]
    fields = _fields(_fitting(infos, value))
    # The key that tells families apart is no field.
    return [fields[name].type] if name in fields else infos


def _members(infos: list[Type]) -> list[Type]:
    flat: list[Type] = []
    for info in infos:
        inner = getattr(info, "type", info) if type(info).__name__ == "Metadata" else info
        flat += _members(list(inner.types)) if isinstance(inner, UnionType) else [inner]
    return flat


def _fitting(infos: list[Type], value: Any) -> list[Type]:
    """Of several families the one that the table names, where it names one."""
    structs = [info for info in _members(infos) if isinstance(info, StructType)]
    tagged = value if isinstance(value, Mapping) else {}
    named = [info for info in structs if info.tag and tagged.get(info.tag_field) == info.tag]
    return list(named or structs)


def _fields(infos: list[Type]) -> dict[str, Field]:
    structs = [info for info in _members(infos) if isinstance(info, StructType)]
    return {field.encode_name: field for info in structs for field in info.fields}


def _tags(infos: list[Type]) -> list[str]:
    return [str(info.tag) for info in _members(infos) if isinstance(info, StructType) and info.tag]


def _choices(infos: list[Type]) -> list[str]:
    literals = [v for info in _members(infos) if isinstance(info, LiteralType) for v in info.values]
    return [str(value) for value in literals] or _tags(infos)
