"""JSON objects read field by field; a wrong one is an InputError that names its file and field."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from superinfer.errors import InputError
from superinfer.settings import is_number

MOST_SECONDS = 1000.0
"""Of a single time: far more than any that is measured, and no sum of such times is infinite."""


class Reader:
    """One JSON object with the path to it, so that every error can name its field."""

    def __init__(
        self, data: object, file: str, path: str, ignored: list[str] | None = None
    ) -> None:
        self.file, self.path = file, path
        self.ignored: list[str] = [] if ignored is None else ignored
        """Places of fields that nobody knows, of the whole file."""
        if not isinstance(data, dict):
            raise InputError("expected an object", file=file, field=path)
        self.data: dict[str, Any] = data

    def fail(self, key: str, expected: str) -> None:
        """Raise InputError for one field."""
        place = self.place(key)
        found = "" if key not in self.data else f", found {repr(self.data[key])[:40]}"
        raise InputError(expected + found, file=self.file, field=place)

    def get(self, key: str) -> Any:
        """The value, or None where it is absent."""
        return self.data.get(key)

    def place(self, key: str) -> str:
        """Where a field stands in the file."""
        return f"{self.path}.{key}" if self.path else key

    def known(self, fields: Container[str]) -> list[str]:
        """The names that are there and among these; the others are noted as `ignored`."""
        self.ignored += [self.place(key) for key in self.data if key not in fields]
        return [key for key in self.data if key in fields]

    def child(self, key: str) -> Reader:
        """The object under `key`."""
        if not isinstance(self.get(key), dict):
            self.fail(key, "expected an object")
        return Reader(self.data[key], self.file, self.place(key), self.ignored)

    def text(self, key: str) -> str:
        """The non-empty string under `key`."""
        if not isinstance(self.get(key), str) or not self.data[key]:
            self.fail(key, "expected a string")
        return str(self.data[key])

    def texts(self, key: str) -> list[str]:
        """The strings under `key`; none where it is absent."""
        values = [] if self.get(key) is None else self.data[key]
        if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
            self.fail(key, "expected a list of strings")
        return list(values)

    def one_byte(self, key: str, known: tuple[str, ...]) -> str:
        """The optional dtype of 8 bits under `key`, one of `known`; empty where there is none."""
        if self.get(key) is None:
            return ""
        if self.get(key) not in known:
            self.fail(key, f"expected {'one of ' * (len(known) > 1)}{', '.join(known)}")
        return str(self.data[key])

    def number(self, key: str, least: float) -> float:
        """The finite number under `key`, `least` or more."""
        if not is_number(self.get(key), least):
            self.fail(key, f"expected a number >= {least:g}")
        return float(self.data[key])

    def seconds(self, key: str) -> float:
        """The time under `key`."""
        found = self.number(key, 0.0)
        if found > MOST_SECONDS:
            self.fail(key, f"expected a number of seconds <= {MOST_SECONDS:g}")
        return found

    def times(self, key: str) -> tuple[float, ...]:
        """The non-empty list of times under `key`."""
        found = self.numbers(key)
        if max(found) > MOST_SECONDS:
            self.fail(key, f"expected numbers of seconds <= {MOST_SECONDS:g}")
        return found

    def whole(self, key: str, least: int) -> int:
        """The whole number under `key`, `least` or more."""
        if not is_number(self.get(key), least) or self.data[key] % 1:
            self.fail(key, f"expected a whole number >= {least}")
        return int(self.data[key])

    def numbers(self, key: str) -> tuple[float, ...]:
        """The non-empty list of numbers >= 0 under `key`."""
        values = self.get(key)
        if not isinstance(values, list | tuple) or not values:
            self.fail(key, "expected a list of numbers")
        if not all(is_number(value, 0.0) for value in self.data[key]):
            self.fail(key, "expected numbers >= 0")
        return tuple(float(value) for value in self.data[key])
