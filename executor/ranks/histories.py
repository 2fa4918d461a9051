"""Which tokens requests with penalties have, where several ranks share a model.

Every rank counts for itself, for all of them know the tokens of each step. Rank 0 names a count by
a number: with the prompt the first time, and once more when nobody needs it any longer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast
from weakref import WeakKeyDictionary, finalize

import torch

from executor.answers import Tokens
from executor.steps.sampler import History, SamplingRow


@dataclass(frozen=True, slots=True)
class Name:
    """Stands for a history on its way to another rank."""

    number: int
    prompt: Tokens | None = None
    """The first time."""


class Names:
    """Names that rank 0 gives."""

    def __init__(self) -> None:
        self._numbers: WeakKeyDictionary[History, int] = WeakKeyDictionary()
        self._given = 0
        self._over: deque[int] = deque()
        """Numbers of histories that are gone."""

    def named(self, rows: Sequence[SamplingRow]) -> list[SamplingRow]:
        """Rows with names in place of histories."""
        return [self._named(row) for row in rows]

    def over(self) -> list[int]:
        """Numbers that nobody needs any longer, each told once."""
        return [self._over.popleft() for _ in range(len(self._over))]

    def _named(self, row: SamplingRow) -> SamplingRow:
        name: Any = None if row.history is None else self._name(row.history)
        return replace(row, history=name)

    def _name(self, history: History) -> Name:
        number = self._numbers.get(history)
        if number is not None:
            return Name(number)
        self._given += 1
        self._numbers[history] = self._given
        finalize(history, self._over.append, self._given).atexit = False
        return Name(self._given, history.tokens)


class Histories:
    """Those of another rank."""

    def __init__(self, vocab: int, device: torch.device) -> None:
        self._vocab, self._device = vocab, device
        self._known: dict[int, History] = {}

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._known)

    def found(self, rows: Sequence[SamplingRow]) -> list[SamplingRow]:
        """Rows with histories in place of names."""
        return [self._found(row) for row in rows]

    def forget(self, numbers: Iterable[int]) -> None:
        """These are over on rank 0."""
        for number in numbers:
            del self._known[number]

    def _found(self, row: SamplingRow) -> SamplingRow:
        name = cast(Name | None, row.history)
        return row if name is None else replace(row, history=self._history(name))

    def _history(self, name: Name) -> History:
        if name.prompt is not None:
            self._known[name.number] = History(name.prompt, self._vocab, self._device)
        return self._known[name.number]
