"""Heaps with entries that hold no longer."""

from __future__ import annotations

import heapq

from hypothesis import given, settings
from hypothesis import strategies as st

from superinfer.heaps import FEWEST, keep, sweep

NUMBERS = st.lists(st.integers(-5, 5), max_size=60)


@settings(deadline=None, derandomize=True)
@given(numbers=NUMBERS, gone=st.sets(st.integers(-5, 5)))
def test_what_holds_comes_out_in_order(numbers: list[int], gone: set[int]) -> None:
    heap: list[tuple[int, str]] = []
    for number in numbers:
        heapq.heappush(heap, (number, "some"))
    sweep(heap, lambda entry: entry[0] not in gone)
    left = [heapq.heappop(heap)[0] for _ in range(len(heap))]
    assert left == sorted(number for number in numbers if number not in gone)


def test_the_next_sweep_comes_when_it_may_halve_the_heap() -> None:
    heap = [(number,) for number in range(4 * FEWEST)]
    assert sweep(heap, lambda entry: True) == 8 * FEWEST
    assert sweep(heap, lambda entry: entry[0] < 3) == FEWEST
    assert len(heap) == 3


def test_the_same_of_entries_that_somebody_picked() -> None:
    heap, same = [(number,) for number in range(4 * FEWEST)], [(1,), (0,)]
    assert keep(heap, [entry for entry in heap[::-1] if entry[0] % 2]) == 4 * FEWEST
    assert heapq.heappop(heap) == (1,) and len(heap) == 2 * FEWEST - 1
    assert keep(same, same) == FEWEST and same == [(0,), (1,)]
