"""How long a request keeps its place before a rotation may take it: the quantum, in tokens.

Three things bound it from below or above (units: seconds, bytes, tokens):

* the link: copying the whole resident set once per quantum may use `LINK_SHARE` of it;
* the copy of one request: what is not hidden behind computation costs at most `COPY_SHARE` of it;
* the stall: with m requests taking turns on one place, a gap of (m - 1) quanta may not exceed the
  longest tolerated stall.

The first must not be longer than the third. Who has to be back sooner than the resident set can be
exchanged would push out another one that has to be back as soon, and so on: the copies that every
step waits for take the time, and nobody gains a place (`exchange_s`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf
from typing import Final

LINK_SHARE: Final = 0.5
"""Half of the link stays free for the copies that cannot wait."""
COPY_SHARE: Final = 0.05
"""Rotation may cost a twentieth of the time it hands out."""
OVERLAPPED: Final = 0.9
"""Share of a background copy that computation hides; the rest is waiting at step boundaries."""
MOST_TOKENS: Final = 100
"""Without a stall to respect, turns of a hundred tokens."""


@dataclass(slots=True, init=False)
class Quantum:
    """Quanta of one kind of request, in tokens."""

    residence_tokens: int
    """Fewest tokens between coming in and leaving: what the link and the copy demand."""
    base_tokens: int
    """A turn at level 0; each level below doubles it."""

    # Written out, because the one that `dataclass` makes is never compiled.
    def __init__(self, residence_tokens: int, base_tokens: int) -> None:
        self.residence_tokens = residence_tokens
        self.base_tokens = base_tokens


def exchange_s(resident_s: float) -> float:
    """Time in which all residents may take turns with others: their copies, out and back, are then
    `LINK_SHARE` of it. `resident_s` is the time of copying the resident set one way.
    """
    return 2.0 * resident_s / LINK_SHARE


def quantum(
    *, step_s: float, resident_s: float, copy_s: float, stall_s: float, turns: float
) -> Quantum:
    """The quanta at the present load.

    `step_s` is the time of a step, `resident_s` of copying the whole resident set one way, `copy_s`
    of copying one request out and back, `stall_s` the longest tolerated gap, `turns` the requests
    per place (m >= 1).
    """
    by_link = resident_s / (LINK_SHARE * step_s)
    by_copy = (1.0 - OVERLAPPED) * copy_s / (COPY_SHARE * step_s)
    by_stall = inf if turns <= 1.0 else stall_s / (step_s * (turns - 1.0))
    residence = max(1, ceil(max(by_link, by_copy)))
    return Quantum(residence, max(residence, ceil(min(by_stall, MOST_TOKENS))))
