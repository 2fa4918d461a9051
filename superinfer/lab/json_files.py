"""Reading a JSON file that a command has written, with one line about what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from superinfer.errors import InputError
from superinfer.pipes import refuse_pipe

_T = TypeVar("_T")


def read_json(path: Path, take: Callable[[Any], _T], expected: str) -> _T:
    """What `take` makes of a file; InputError where it cannot be read or `take` misses something,
    with what was `expected` instead.
    """
    refuse_pipe(path)
    try:
        return take(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror or error}", file=str(path)) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"expected {expected}", file=str(path)) from None
