"""Heaps whose entries may be out of date: what holds no longer is passed over at the top and swept
out now and then, and what has grown is put back where it belongs once it comes up.
"""

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
    """Drop all entries but these: `sweep` for one who has picked them already, since compiled code
    calls a function that it is given for each entry several times slower than one of its own.
    """
    heap[:] = entries
    heapq.heapify(heap)
    return max(FEWEST, 2 * len(heap))


class GrowingKeys:
    """The name with the lowest key, of many whose keys grow without a word.

    A name lies in the heap by the key with which it was last seen. That is a lower bound, so who
    comes up and has its key still is the lowest; who has grown is put back. Who may have fallen, or
    is new, has to be touched. So a query costs by what happened since the last one, not by how many
    names there are.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[Any, str]] = []
        self._seen: dict[str, Any] = {}
        """Of each name the key in the heap that holds."""
        self._touched: dict[str, None] = {}
        self._most = FEWEST
        """With more entries than this, those that do not hold are looked for."""

    def touch(self, name: str) -> None:
        """Its key may be lower than when it was last seen."""
        self._touched[name] = None

    def lowest(self, key: Callable[[str], Any]) -> tuple[Any, str] | None:
        """The lowest key and its name; who has None for a key is forgotten until it is touched.
        Equal keys go by the name.
        """
        if self._touched:
            self._look_again(key)
        heap, seen = self._heap, self._seen
        while heap:
            last, name = heap[0]
            if seen.get(name) != last:
                heappop(heap)
                continue
            now = key(name)
            if now == last:
                return last, name
            heappop(heap)
            if now is None:
                del seen[name]
            else:
                seen[name] = now
                heappush(heap, (now, name))
        return None

    def _look_again(self, key: Callable[[str], Any]) -> None:
        seen = self._seen
        for name in self._touched:
            now = key(name)
            if now is not None and (name not in seen or now < seen[name]):
                seen[name] = now
                heappush(self._heap, (now, name))
        self._touched.clear()
        if len(self._heap) > self._most:
            self._most = keep(self._heap, [(last, name) for name, last in seen.items()])
