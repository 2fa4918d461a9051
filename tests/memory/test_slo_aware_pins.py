"""Pins of the memory policy `slo_aware`, worked by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from slo_shelf import BLOCK, EDGES_S, Shelf, prompt, shrink

from superinfer.memory.blocks.slabs import Slabs
from superinfer.memory.index.node import Node
from superinfer.memory.orders import Surroundings
from superinfer.memory.orders.pins import Pins
from superinfer.memory.orders.valued import ValuedOrder
from superinfer.memory.orders.worth import Appraisal
from superinfer.memory.replay import CacheReplay
from superinfer.memory.reuse.features import Visit
from superinfer.request import Request


def leaf(parent: Node | None, key: int, blocks: int, used_s: float = 0.0) -> Node:
    """A node below another, or below a root of its own."""
    above = parent if parent is not None else Node(None, (), 0, 0, BLOCK)
    node = Node(above, (key,), above.stop, above.stop + blocks, BLOCK)
    above.children[key], node.last_access_s = node, used_s
    above.device_children += 1
    return node


def test_pins_hold_the_best_within_their_room() -> None:
    pins = Pins(10, 30.0)
    low, high, huge = leaf(None, 1, 4), leaf(None, 2, 5), leaf(None, 3, 11)
    assert pins.offer(low, 1.0, 0.0) == (True, [])
    assert pins.offer(high, 2.0, 0.0) == (True, [])
    assert pins.offer(huge, 9.0, 0.0) == (False, [])
    assert pins.offer(leaf(None, 4, 3), 0.5, 0.0) == (False, [])  # worth less than all of them
    better = leaf(None, 5, 3)
    assert pins.offer(better, 1.5, 0.0) == (True, [low])
    assert (pins.blocks, pins.peak_blocks, pins.made) == (8, 9, 3)
    assert [pins.pop(), pins.pop(), pins.pop()] == [better, high, None]
    assert pins.blocks == 0


def test_what_is_above_a_pinned_leaf_counts_once() -> None:
    pins, stem = Pins(10, 30.0), leaf(None, 1, 6)
    left, right, third = leaf(stem, 2, 2), leaf(stem, 3, 2), leaf(stem, 4, 2)
    assert pins.offer(left, 1.0, 0.0) == (True, [])
    assert pins.offer(right, 1.5, 0.0) == (True, [])
    assert pins.blocks == 10
    assert pins.offer(third, 2.0, 0.0) == (True, [left])
    pins.drop(right)
    assert pins.blocks == 8
    pins.drop(third)
    assert pins.blocks == 0


def test_smaller_blocks_take_less_of_the_room_for_pins() -> None:
    """Ten blocks of 16 bits have the room of twenty of 8, or of forty of 4."""
    pins = Pins(10, 30.0, {16: 1.0, 8: 0.5, 4: 0.25})
    stem, whole = leaf(None, 1, 16), leaf(None, 3, 11)
    small, end, large = leaf(stem, 2, 4), leaf(stem, 4, 1), leaf(None, 5, 41)
    stem.bits, small.bits, large.bits = 4, 8, 4
    assert pins.offer(whole, 9.0, 0.0) == pins.offer(large, 9.0, 0.0) == (False, [])
    assert pins.offer(small, 1.0, 0.0) == (True, [])
    assert pins.blocks == 6.0
    assert pins.offer(end, 2.0, 0.0) == (True, [])
    assert pins.blocks == 7.0
    stem.bits = 8  # it counts with the room that it took when it was pinned first
    pins.drop(small)
    assert (pins.blocks, pins.peak_blocks) == (5.0, 7.0)
    pins.drop(end)
    assert pins.blocks == 0.0


def test_a_pin_ends() -> None:
    pins, node = Pins(10, 30.0), leaf(None, 1, 4, used_s=5.0)
    assert pins.offer(node, 1.0, 6.0) == (True, [])
    assert pins.lapsed(34.0) == []
    assert pins.lapsed(35.0) == [node]
    assert (pins.expired, pins.blocks, pins.pop()) == (1, 0, None)
    assert pins.offer(node, 1.0, 35.0) == (False, [])


class Falling:
    """Prompts are worth 9, 3, 1 ... in the first bin, and next to nothing in the second."""

    edges_s = EDGES_S

    def __init__(self) -> None:
        self.value = 27.0

    def appraise(self, visits: Sequence[Visit]) -> list[Appraisal]:
        found = []
        for visit in visits:
            self.value /= 3
            rows = [[self.value, self.value / 1000, 0.0]] * len(visit.starts)
            found.append(Appraisal(rows, rows))
        return found


@pytest.mark.parametrize(("ttl_s", "gone"), [(0.0, 1), (8.0, 1), (13.0, 4), (100.0, 4)])
def test_a_pinned_leaf_keeps_its_rank_until_the_pin_ends(ttl_s: float, gone: int) -> None:
    """Room for two blocks and one pin. At 6 s the values are 9, 3 and 1: the third goes, and the
    first gets the pin. At 12 s it is worth 0.009, the second 3 and the fourth 1/3: the first goes
    if its pin has ended, else the fourth. What is asked for last shows who went.
    """
    hits = {}
    for again in (1, 4):
        order = ValuedOrder(Surroundings(2, 512), Falling(), pins=Pins(1, ttl_s))
        coming = zip((0.0, 5.0, 6.0, 12.0, 12.5), (1, 2, 3, 4, again), strict=True)
        asked = [
            Request(str(i), at_s, 512, 1, hash_ids=(key,), index=i)
            for i, (at_s, key) in enumerate(coming)
        ]
        hits[again] = CacheReplay(2, 512, order).hits(asked)[-1]
    assert hits == {1: int(gone != 1), 4: int(gone != 4)}


def test_pinned_blocks_do_not_stand_in_the_way(even: str) -> None:
    """All is pinned, and all of it goes when it has to."""
    shelf = Shelf(even, pin_share=1.0, pin_s=1000.0)
    shelf.put(prompt(0.0, 1, 2))
    shelf.put(prompt(1.0, 3), answer=1)
    assert len(shelf.gone(4)) == 4
    assert shelf.policy.counters["pinned_blocks_peak"] == 3.0
    assert shelf.pool.cached == 0


@pytest.mark.parametrize(("bits", "peak"), [(16, 1.0), (8, 1.0), (4, 10.0)])
def test_the_share_for_pins_is_one_of_the_memory(even: str, bits: int, peak: float) -> None:
    """Of the room of 100 blocks a tenth: 36 blocks are too many at 8 bits, and nine at 4."""
    shelf = Shelf(even, slabs=Slabs(1, 2, 4), pin_share=0.1, pin_s=1000.0)
    node = shelf.put(prompt(0.0, *range(1, 37)))
    if bits < 16:
        shrink(shelf, node, bits)
    shelf.put(prompt(1.0, 99))
    shelf.gone(1)
    assert shelf.policy.counters["pinned_blocks_peak"] == peak
