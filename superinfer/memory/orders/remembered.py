"""A memory of names that does not grow for ever."""

from __future__ import annotations

from typing import Generic, TypeVar

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """Values by name, in a younger and an older half: when the younger one is full, the older one
    is forgotten, and the younger one takes its place.
    """

    def __init__(self, most: int) -> None:
        """`most`: names in the younger half."""
        self._most = most
        self._young: dict[object, Value] = {}
        self._old: dict[object, Value] = {}

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def get(self, name: object) -> Value | None:
        """What was last put under a name; None if there was nothing, or it is forgotten."""
        found = self._young.get(name)
        return self._old.get(name) if found is None else found

    def put(self, name: object, value: Value) -> None:
        """Remember a value; its name is young from now on."""
        if len(self._young) >= self._most and name not in self._young:
            self._old, self._young = self._young, {}
        self._young[name] = value
