"""What is wrong with a record: the field, and what was expected there; of JSON that msgspec refuses
by what that says of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from superinfer.slo_classes import MAX_LENGTH_TOKENS
from traces.source import RecordError

LENGTH_EXPECTED = f"an integer from 1 to {MAX_LENGTH_TOKENS} (tokens)"

_MISSING = re.compile(r"missing required field `(\w+)`")
_PATH = re.compile(r" - at `\$\.?(.*)`$")
_STEP = re.compile(r"(\w+)|\[(\d+)\]")
_SHOWN_CHARACTERS = 40


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


def field_path(message: str) -> str:
    """The field that a refusal by msgspec is about; empty for the whole."""
    path = _PATH.search(message)
    return path[1] if path else ""


def missing_field(message: str) -> str:
    """The field that is not there, by a refusal of msgspec; empty where that is not the fault."""
    missing = _MISSING.search(message)
    return missing[1] if missing else ""


def value_at(value: Any, field: str) -> Any:
    """What stands in a field, such as `slo.ttft_ms` or `hash_ids[2]`."""
    for name, position in _STEP.findall(field):
        value = value[name] if name else value[int(position)]
    return value


def not_utf8(error: UnicodeDecodeError) -> RecordError:
    """The fault of a line that is not text."""
    byte = error.object[error.start]
    return RecordError(
        "", f"expected UTF-8 text, got byte 0x{byte:02x} at column {error.start + 1}"
    )


def shown(value: object, most: int = _SHOWN_CHARACTERS) -> str:
    """`value` as it stands in JSON, on one line of at most so many characters."""
    text = json.dumps(value) if not isinstance(value, dict | list) else _container(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


# -- inside ---------------------------------------------------------------------------------------


def _validation_error(data: bytes, message: str, expected: Mapping[str, str]) -> RecordError:
    field, missing = field_path(message), missing_field(message)
    if missing:
        name = f"{field}.{missing}" if field else missing
        return RecordError(name, f"expected {expected.get(missing, 'a value')}, got nothing")
    wanted = expected.get(_last_name(field), "another value")
    return RecordError(field, f"expected {wanted}, got {_shown_at(data, field)}")


def _last_name(field: str) -> str:
    """`a[2].b[0]` is about `b`; the document itself has the empty name."""
    names: list[str] = re.findall(r"[A-Za-z_]\w*", field)
    return names[-1] if names else ""


def _shown_at(data: bytes, field: str) -> str:
    try:
        return shown(value_at(json.loads(data), field))
    except (ValueError, LookupError, TypeError, RecursionError):
        return "something else"


def _container(value: object) -> str:
    return "an object" if isinstance(value, dict) else "a list"
