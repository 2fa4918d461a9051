"""What is wrong with JSON that msgspec refuses: the field, and what was expected there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from superinfer.slo_classes import MAX_LENGTH_TOKENS
from traces.native import not_utf8, shown
from traces.source import RecordError

LENGTH_EXPECTED = f"an integer from 1 to {MAX_LENGTH_TOKENS} (tokens)"

_MISSING = re.compile(r"missing required field `(\w+)`")
_PATH = re.compile(r" - at `\$\.?(.*)`$")
_STEP = re.compile(r"(\w+)|\[(\d+)\]")


def field_error(data: bytes, error: Exception, expected: Mapping[str, str]) -> RecordError:
    """The fault of `data` in one line; `expected` says what each field should hold."""
    try:
        data.decode()
    except UnicodeDecodeError as unicode_error:
        return not_utf8(unicode_error)
    if isinstance(error, RecursionError):
        return RecordError("", "expected JSON, got a document nested too deeply")
    if not isinstance(error, msgspec.ValidationError):
        return RecordError("", f"expected JSON, got a broken document: {error}")
    return _validation_error(data, str(error), expected)


def _validation_error(data: bytes, message: str, expected: Mapping[str, str]) -> RecordError:
    path = _PATH.search(message)
    field = path[1] if path else ""
    missing = _MISSING.search(message)
    if missing:
        name = f"{field}.{missing[1]}" if field else missing[1]
        return RecordError(name, f"expected {expected.get(missing[1], 'a value')}, got nothing")
    wanted = expected.get(_last_name(field), "another value")
    return RecordError(field, f"expected {wanted}, got {_value_at(data, field)}")


def _last_name(field: str) -> str:
    """`a[2].b[0]` is about `b`; the document itself has the empty name."""
    names: list[str] = re.findall(r"[A-Za-z_]\w*", field)
    return names[-1] if names else ""


def _value_at(data: bytes, field: str) -> str:
    try:
        value: Any = json.loads(data)
        for name, position in _STEP.findall(field):
            value = value[name] if name else value[int(position)]
    except (ValueError, LookupError, TypeError, RecursionError):
        return "something else"
    return shown(value)
