"""Heaps with entries that hold no longer: passed over at the top, and swept out now and then."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Final, TypeVar

Entry = TypeVar("Entry", bound=Any)

FEWEST: Final = 1024
"""Entries of a heap that are not worth a sweep."""
heappop: Final = heapq.heappop
heappush: Final = heapq.heappush
"""Those of the library, for what is hot: compiled code looks up the name of a function of a library
whenever it calls it, and finds what is `Final` at once."""


def sweep(heap: list[Entry], holds: Callable[[Entry], bool]) -> int:
    """Drop the entries that will never hold again: behind others they would keep a place each for
    as long as there are such. Returns with more than how many entries it is worth doing again.
    """
    return keep(heap, [entry for entry in heap if holds(entry)])


def keep(heap: list[Entry], entries: list[Entry]) -> int:
    """The same for one who has picked the entries that may hold: compiled code calls a function
    that it is given for each of them several times slower than one of its own.
    """
    heap[:] = entries
    heapq.heapify(heap)
    return max(FEWEST, 2 * len(heap))
