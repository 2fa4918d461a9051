"""`slo_aware` where cached blocks have or lose bits, worked by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from harness import FakeCost
from slo_shelf import BLOCK, QUARTERS, Shelf, prompt, shrink

from superinfer.memory.blocks.slabs import ONE_BLOCK_SLABS, Slabs
from superinfer.memory.index.node import Node
from superinfer.memory.orders.host import LIFE_SMOOTHING
from superinfer.memory.orders.shrinking import Shrinking
from superinfer.memory.orders.worth import Appraisal, Worth
from superinfer.memory.reuse.features import Visit
from superinfer.request import SLOClass


@pytest.mark.parametrize(
    ("slabs", "weight", "gone"),
    [
        (Slabs(1, 2, 4), 3.0, [1, 2]),  # 1 / 15 for a quarter of the room: more than 3 / 15
        (Slabs(1, 2, 4), 5.0, [2, 1]),
        (ONE_BLOCK_SLABS, 3.0, [2, 1]),  # slabs have room for no more of the smaller blocks
    ],
)
def test_a_block_of_four_bits_is_worth_more_for_its_room(
    even: str, slabs: Slabs, weight: float, gone: list[int]
) -> None:
    shelf = Shelf(even, slabs=slabs)
    shelf.put(prompt(0.0, 1, weight=weight))
    shrink(shelf, shelf.put(prompt(1.0, 2)), 4)
    assert shelf.gone(2) == gone


def test_a_smaller_block_is_cheaper_to_copy(even: str) -> None:
    """4 s to compute a block, 4 s to copy it at 16 bits, 1 s at 4 bits: it goes to the host, where
    the room of one block of 16 bits holds four; at 16 bits a copy would save nothing.
    """
    shelf = Shelf(even, 1, sizes=QUARTERS, slabs=Slabs(1, 2, 4))
    shelf.put(prompt(0.0, 1, 2))
    shelf.index.reclaim(2)
    assert shelf.on_host() == []
    shrink(shelf, shelf.put(prompt(1.0, 3, 4, 5)), 4)
    shelf.index.reclaim(3)
    assert shelf.on_host() == [3, 4, 5]
    assert (shelf.host.cached, shelf.host.nbytes) == (3, 3)
    assert (shelf.host.cache_room(4), shelf.host.cache_free) == (1, 0)


def test_loads_by_the_bytes_that_are_there(even: str) -> None:
    """5 s and 1 s a byte: four blocks take 16 s to compute, 21 s to load at 16 bits, 13 s at 8."""
    slow = FakeCost(step=0.0, per_chunk_token=1.0, copy=5.0, per_byte=1.0)
    policy = Shelf(even, 10, slow, sizes=QUARTERS).policy
    assert not policy.loads(0, 4)
    assert policy.loads(0, 4, (4, 0))


class Cached:
    """A prompt of six blocks, used 5 s ago, beside one that is worth more."""

    def __init__(self, weights: str, per_byte: float, bits: int, **settings: Any) -> None:
        cost = FakeCost(step=0.0, per_chunk_token=1.0, copy=0.0, per_byte=per_byte)
        sizes, slabs = QUARTERS, Slabs(1, 2, 4)
        self.shelf = Shelf(
            weights, cost=cost, sizes=sizes, slabs=slabs, tail_tokens=BLOCK, **settings
        )
        loose = SLOClass("loose", min_kv_bits=bits)
        self.shelf.put(replace(prompt(0.0, 1, 2, 3, 4, 5, 6), slo_class=loose))
        self.shelf.put(prompt(5.0, 7, weight=9.0, index=1))

    def make_room(self, blocks: int) -> list[int]:
        """Blocks that were dropped for that."""
        return [count for _, count in self.shelf.index.make_room(blocks)]

    def bits(self) -> list[int]:
        """Of the first prompt's blocks that are left."""
        nodes = sorted(self.shelf.index.nodes(), key=lambda node: node.start)
        return [node.bits for node in nodes for _ in range(node.blocks) if node.keys != (7,)]


def test_cached_blocks_lose_bits_where_that_keeps_more(even: str) -> None:
    """A block is used in the next 5 s with probability 1/3 and takes 4 s to compute: 4/3 s are lost
    for its room. A conversion to 8 bits makes half of that room for 0.1 s x (4 + 2) bytes: 1.2 s
    for all of it. The first block and the latest one keep 16 bits, so there is room for two
    more. For the next two the latest one goes, and the others lose bits again: to 4.
    """
    cached = Cached(even, 0.1, 4)
    assert (cached.make_room(1), cached.bits()) == ([], [16, 8, 8, 8, 8, 16])
    assert cached.shelf.index.take_shrunk() == [(4, 16, 8)]
    assert cached.shelf.pool.total == 102
    assert (cached.make_room(2), cached.bits()) == ([1], [16, 4, 4, 4, 4])
    assert cached.shelf.pool.total == 103
    assert (cached.make_room(3), cached.bits()) == ([3], [16, 4])  # there are no fewer bits


@pytest.mark.parametrize(
    ("per_byte", "bits", "settings", "left"),
    [
        (0.12, 4, {}, [16] * 5),  # 1.44 s for what loses 1.33 s
        (0.1, 16, {}, [16] * 5),  # its class demands 16 bits
        (0.1, 8, {}, [16, 8, 8, 8, 8, 16]),
        (0.1, 4, {"shrink_8_at": 1.1, "shrink_4_at": 1.1}, [16] * 5),  # never
    ],
)
def test_cached_blocks_that_go_instead(
    even: str, per_byte: float, bits: int, settings: dict[str, float], left: list[int]
) -> None:
    cached = Cached(even, per_byte, bits, **settings)
    cached.make_room(1)
    assert cached.bits() == left


def test_a_class_that_demands_more_bits_keeps_a_shared_prompt_at_them(even: str) -> None:
    cached = Cached(even, 0.1, 4)
    cached.shelf.put(prompt(6.0, 1, 2, 3, index=2))
    cached.shelf.put(prompt(9.0, 7, weight=9.0, index=3))
    cached.make_room(1)
    assert cached.bits() == [16, 16, 16, 8, 8, 16]


def test_a_second_run_of_a_policy_knows_nobody_who_allows_fewer_bits(even: str) -> None:
    shelf = Cached(even, 0.1, 4).shelf
    assert shelf.policy.shrinks_cached
    shelf.policy.index(shelf.pool, shelf.host, BLOCK)
    assert not shelf.policy.shrinks_cached


def test_what_was_used_until_this_moment_keeps_its_bits(even: str) -> None:
    """It may be about to be copied to the host as it is."""
    cached = Cached(even, 0.1, 4)
    node = next(node for node in cached.shelf.index.nodes() if node.stop == 6)
    cached.shelf.index.touch(node, 5.0)
    assert (cached.make_room(1), cached.bits()) == ([1], [16] * 5)


def test_generated_text_goes_first(even: str) -> None:
    shelf = Shelf(even)
    shelf.put(prompt(0.0, 1), answer=2)
    shelf.put(prompt(30.0, 2))
    shelf.index.reclaim(2)
    assert sorted(map(str, shelf.on_device())) == ["1", "2"]


def test_a_request_that_goes_on_after_a_pause_is_one_use(even: str) -> None:
    """Preempted and admitted again: its prompt is not used twice."""
    shelf, req = Shelf(even), prompt(0.0, 1, 2)
    shelf.put(req, until_s=3.0)
    shelf.put(prompt(4.0, 5))
    shelf.put(req, until_s=9.0)
    parts = shelf.policy._parts
    assert parts is not None and parts.order.uses == 2
    seen = parts.order._history.visit(prompt(20.0, 1, 2), 20.0)
    assert seen.waited_s[:1] == [20.0]  # since it was admitted first


@pytest.mark.interpreted
def test_blocks_are_expected_to_stay_as_long_as_others_did() -> None:
    """Leaves come next to go 10 s, 30 s and 60 s after their latest use; one that is asked for
    again counts once. The mean moves by a share of each difference.
    """
    lives: list[float] = []

    def chance(node: Node, life_s: float) -> float:
        lives.append(life_s)
        return 0.0

    order: Any = SimpleNamespace(plain=False, now_s=100.0, chance=chance)
    prices: Any = SimpleNamespace(convert_s=lambda before, after: 1.0)
    pool: Any = SimpleNamespace(share=lambda bits: bits / 16)
    shrinking = Shrinking(order, prices, pool, lambda chance, node: chance, 4, 0, BLOCK)
    leaves = []
    for used_s in (90.0, 70.0, 40.0):
        leaf = Node(Node(None, (), 0, 0, BLOCK), (1, 2, 3, 4, 5, 6), 0, 6, BLOCK)
        visit = Visit(used_s, 0)
        visit.add(0, 6, 1.0)
        leaf.note = Worth(prompt(used_s, 1, 2, 3, 4, 5, 6, 7), used_s, visit)
        leaf.note.appraisal = Appraisal([[0.0]], [[1.0]])
        leaf.last_access_s = used_s
        leaves.append(leaf)
    for place in (0, 1, 1, 2):
        assert shrinking.part(leaves[place]) is None
    first, second = 10.0, 10.0 + LIFE_SMOOTHING * (30.0 - 10.0)
    third = second + LIFE_SMOOTHING * (60.0 - second)
    assert lives == pytest.approx([first, second, second, third])
