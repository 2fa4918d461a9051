"""Heaps with entries that hold no longer."""

from __future__ import annotations

import heapq

from hypothesis import given, settings
from hypothesis import strategies as st

from superinfer.heaps import FEWEST, GrowingKeys, keep, sweep

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


STEPS = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["grow", "fall", "go", "come", "ask"])),
    max_size=120,
)


@given(steps=STEPS)
def test_the_lowest_is_found_among_keys_that_grow_unseen(steps: list[tuple[str, str]]) -> None:
    keys: dict[str, int] = {}
    growing = GrowingKeys()
    for place, (name, step) in enumerate([*steps, ("a", "ask")]):
        if step == "grow" and name in keys:
            keys[name] += place % 7
        elif step in ("fall", "come"):
            keys[name] = keys.get(name, place) - place % 5
            growing.touch(name)
        elif step == "go":
            keys.pop(name, None)
        elif step == "ask":
            found = min(((key, other) for other, key in keys.items()), default=None)
            assert growing.lowest(keys.get) == found


def test_few_of_many_are_looked_at() -> None:
    """1,000 take turns, as tenants do, while those served last go on growing."""
    keys = dict.fromkeys(map(str, range(1000)), 0)
    growing = GrowingKeys()
    looked_at: list[str] = []

    def key(name: str) -> int:
        looked_at.append(name)
        return keys[name]

    for name in keys:
        growing.touch(name)
    growing.lowest(key)
    looked_at.clear()
    for _ in range(1000):
        lowest = growing.lowest(key)
        assert lowest is not None and lowest[0] == 0
        keys[lowest[1]] += 5
    assert len(looked_at) < 2 * len(keys)
    assert growing.lowest(key) == (5, "0")


def test_names_that_fall_again_and_again_do_not_fill_the_heap() -> None:
    growing, key = GrowingKeys(), dict.fromkeys(("a", "b"), 0)
    for round_ in range(4 * FEWEST):
        key["a"] = key["b"] = -round_
        growing.touch("a")
        growing.touch("b")
        assert growing.lowest(key.get) == (-round_, "a")
    assert len(growing._heap) <= FEWEST + 2
