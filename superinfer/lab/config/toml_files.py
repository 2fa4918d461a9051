"""Reading a TOML file of a user's, with one line about what is wrong with it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from superinfer.errors import InputError
from superinfer.pipes import refuse_pipe


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a file, in UTF-8 with or without a mark; InputError with its name, also
    for a pipe.
    """
    refuse_pipe(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", file=str(path)) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected TOML: {error}", file=str(path)) from None
