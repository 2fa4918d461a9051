"""Files that a study reads back, and its mistakes in one line."""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from superinfer.errors import ConfigError, SuperInferError
from superinfer.lab.cli.complaints import complain

Parts = dict[str, Any]
Rehearse = Callable[[Path, Parts, Mapping[str, Any]], None]
"""Writes the files of a study into a folder, from its parts and what they rest on."""


def exit_code_of(main: Callable[[], int]) -> int:
    """The exit code of a command; a user's mistake is one line on standard error, and code 2."""
    try:
        return main()
    except SuperInferError as error:
        return complain(str(error), error.exit_code)


def data_folder() -> Path:
    """Where public traces and measurements lie: `SUPERINFER_DATA`, or beside the checkout."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("SUPERINFER_DATA") or beside)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. ConfigError where there is none."""
    found = _parsed(path, json.loads, "JSON")
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected a JSON object")
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. ConfigError where they cannot be read."""
    found: dict[str, Any] = _parsed(path, tomllib.loads, "TOML")
    return found


@contextmanager
def fields_of(path: Path) -> Iterator[None]:
    """ConfigError that names the file where a field of it is missing or of another kind."""
    try:
        yield
    except KeyError as error:
        raise ConfigError(f"{path}: the field {error.args[0]!r} is missing") from None
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: a field is not as expected: {error}") from None


def earlier_parts(out: Path, version: int, rehearse: Rehearse) -> Parts:
    """The parts of an earlier `summary.json` in the folder that it can be written with once more.

    None where there is no such file, or one of another version of its form. ConfigError for one
    that is damaged or of something else: it would be lost.
    """
    path = out / "summary.json"
    if not path.exists():
        return {}
    found = read_json(path)
    with fields_of(path):
        if found["version"] != version:
            return {}
        parts: Parts = dict(found["parts"])
        with tempfile.TemporaryDirectory() as folder:
            rehearse(Path(folder), parts, found["made_by"])
    return parts


# -- inside ---------------------------------------------------------------------------------------


def _parsed(path: Path, parse: Callable[[str], Any], form: str) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected {form}: {error}") from None
