"""Reading a JSON file, with one line about what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from superinfer.errors import InputError

_T = TypeVar("_T")


def read_json(path: Path, take: Callable[[Any], _T], expected: str) -> _T:
    """What `take` makes of a file that a command has written; InputError where it cannot be read or
    `take` misses something, with what was `expected` instead.
    """
    try:
        return take(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror or error}", file=str(path)) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"expected {expected}", file=str(path)) from None


def read_object(path: Path) -> dict[str, Any]:
    """The object in a file of somebody else's; InputError where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror or error}", file=str(path)) from None
    except UnicodeDecodeError:
        raise InputError("expected JSON in UTF-8", file=str(path)) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected JSON: {error}", file=str(path)) from None
    if not isinstance(found, dict):
        raise InputError("expected a JSON object", file=str(path))
    return found
