"""Heaps with entries that hold no longer: passed over at the top, and swept out now and then."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Final, TypeVar

Entry = TypeVar("Entry", bound=tuple[Any, ...])

FEWEST: Final = 1024
"""Entries of a heap that are not worth a sweep."""


def sweep(heap: list[Entry], holds: Callable[[Entry], bool]) -> int:
    """Drop the entries that will never hold again: behind others they would keep a place each for
    as long as there are such. Returns with more than how many entries it is worth doing again.
    """
    heap[:] = [entry for entry in heap if holds(entry)]
    heapq.heapify(heap)
    return max(FEWEST, 2 * len(heap))
