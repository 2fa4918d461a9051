"""The memory policy `slo_aware`: values, pins, host tier and guard, worked by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import BlockingDriver, FakeCost, make_engine, request
from shelves import block_prompt

from superinfer.costs import Chunk
from superinfer.engine_config import EngineConfig
from superinfer.errors import ConfigError
from superinfer.memory.keys import request_keys
from superinfer.memory.lru import LruMemory
from superinfer.memory.node import Node
from superinfer.memory.orders import Surroundings, build_order
from superinfer.memory.orders.guard import Guard
from superinfer.memory.orders.host import Experience
from superinfer.memory.orders.pins import Pins
from superinfer.memory.orders.valued import ValuedOrder
from superinfer.memory.orders.worth import Appraisal, Worth
from superinfer.memory.pool import BlockPool, HostPool
from superinfer.memory.replay import CacheReplay
from superinfer.memory.reuse.features import FEATURES, Visit
from superinfer.memory.reuse.history import History
from superinfer.memory.reuse.model import HEADS, WIDTH
from superinfer.memory.reuse.prices import Prices
from superinfer.memory.reuse.trails import LATELY_S
from superinfer.memory.reuse.value import used_within
from superinfer.memory.slabs import EQUAL_SIZES, ONE_BLOCK_SLABS, BlockSizes, Slabs
from superinfer.memory.slo_aware import SloAwareMemory
from superinfer.request import Request, SLOClass
from superinfer.schedulers.fcfs import FcfsScheduler

BLOCK = 4
EDGES_S = (10.0, 20.0)
COST = FakeCost(step=0.0, per_chunk_token=1.0, copy=0.0, per_byte=1.0)
"""A block takes 4 s to compute, and 1 s for each way to the host and back."""


def write_weights(
    path: Path, *hazards: float, edges_s: Sequence[float] = EDGES_S, by_uses: float = 0.0
) -> str:
    """A model that gives every stretch these hazards in the bins up to these ends, and other ones
    the more often it was used.
    """
    inputs, hidden, bins = len(FEATURES), 2, len(hazards)
    shapes = {
        "w_embed": (1, WIDTH), "b_embed": (WIDTH,), "p_place": (8, WIDTH), "p_null": (WIDTH,),
        "w_query": (inputs, WIDTH), "b_query": (WIDTH,), "w_key": (WIDTH, WIDTH),
        "b_key": (WIDTH,), "w_value": (WIDTH, WIDTH), "b_value": (WIDTH,),
        "w_hidden": (inputs + WIDTH, hidden), "b_hidden": (hidden,), "w_deep": (hidden, hidden),
        "b_deep": (hidden,), "w_out": (hidden, bins), "mean": (inputs,),
    }  # fmt: skip
    arrays: dict[str, Any] = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    logits = [np.log(h / (1 - h)) for h in hazards]
    arrays |= {"b_out": np.array(logits, np.float32), "scale": np.ones(inputs, np.float32)}
    arrays["w_hidden"][FEATURES.index("uses"), 0] = arrays["w_deep"][0, 0] = 1.0
    arrays["w_out"][0] = by_uses
    arrays |= {"edges_s": np.array(edges_s), "source": np.array("x"), "format": np.array(2)}
    assert WIDTH % HEADS == 0
    np.savez(path, **arrays)
    return str(path)


@pytest.fixture
def even(tmp_path: Path) -> str:
    """Half of all stretches are used within 10 s, and half of the rest by 20 s."""
    return write_weights(tmp_path / "even.npz", 0.5, 0.5)


def prompt(at_s: float, *ids: int, weight: float = 1.0, index: int = 0) -> Request:
    slo_class = SLOClass(f"weight {weight}", weight=weight)
    return block_prompt(index, *ids, arrival_s=at_s, slo_class=slo_class, max_tokens=1)


class Shelf:
    """An index filled prompt by prompt, without an engine."""

    def __init__(
        self,
        weights: str,
        host_blocks: int = 0,
        cost: Any = COST,
        slabs: Slabs = ONE_BLOCK_SLABS,
        sizes: BlockSizes = EQUAL_SIZES,
        **settings: Any,
    ):
        self.pool, self.host = BlockPool(100, slabs), HostPool(0, host_blocks, sizes)
        settings = {"pin_share": 0.0, "guard": False} | settings
        self.policy = SloAwareMemory(weights, **settings)
        self.policy.bind_costs(cost, lambda blocks, small: (sizes.total(blocks, small), blocks))
        self.index = self.policy.index(self.pool, self.host, BLOCK)

    def put(self, req: Request, *, until_s: float | None = None, answer: int = 0) -> Node:
        """A request uses its prompt; returns the node of its end."""
        keys, blocks = request_keys(req), len(req.hash_ids) - 1
        held_blocks = self.index.match(req, keys, blocks)[0]
        node, held = self.index.acquire(req, keys, held_blocks)
        if node is not None:
            self.index.hit(req, node)
        self.pool.referenced += blocks - held
        node, _ = self.index.insert(req, keys, node, blocks)
        assert node is not None
        now = req.arrival_s if until_s is None else until_s
        if answer:
            self.index.add_answer(req, node, answer, now)
        self.index.release(node, now)
        return node

    def gone(self, blocks: int) -> list[object]:
        """Content ids of the blocks that are reclaimed, in order."""
        found: list[object] = []
        for _ in range(blocks):
            before = self.on_device()
            assert len(self.index.reclaim(1)) == 1
            found += [key for key in before if key not in self.on_device()]
        return found

    def on_device(self) -> list[object]:
        return [key for node in self.index.nodes() if node.on_device for key in node.keys]

    def on_host(self) -> list[object]:
        return [key for node in self.index.nodes() if not node.on_device for key in node.keys]


# -- value ----------------------------------------------------------------------------------------


def test_equal_hazards_go_by_class_weight_and_age(even: str) -> None:
    """At 12 s the first two are in the second bin. There a hit is as likely, but it is hoped for
    until 20 s and no longer; the model gives 0.5 / 7.5 at each age. So weights decide: 2 x 1 / 15
    is the most, and of equals the deepest go.
    """
    shelf = Shelf(even)
    shelf.put(prompt(0.0, 1, weight=2.0))
    shelf.put(prompt(1.0, 2))
    shelf.put(prompt(12.0, 3, 4))
    assert shelf.gone(4) == [4, 3, 2, 1]


def test_past_the_last_bin_nothing_is_expected(even: str) -> None:
    shelf = Shelf(even)
    shelf.put(prompt(0.0, 1, weight=100.0))
    shelf.put(prompt(21.0, 2))
    assert shelf.gone(2) == [1, 2]


def test_blocks_deep_in_a_prompt_are_worth_more(even: str) -> None:
    """Context costs: a block behind 2,048 tokens takes longer to compute than one in front."""
    cost = ContextCost(step=0.0, per_chunk_token=1.0)
    shelf = Shelf(even, cost=cost)
    long = tuple(range(1000, 1514))
    shelf.pool.total = 1000
    shelf.put(prompt(0.0, *long))
    shelf.put(prompt(1.0, 1, 2))
    # The short prompt is newer and goes first; the long one loses its end.
    assert shelf.gone(3) == [2, 1, 1513]


class ContextCost(FakeCost):
    """A token also costs a thousandth for each one before it."""

    def step_s(self, chunks: Sequence[Chunk], decodes: int, context_tokens: int) -> float:
        return sum(c.tokens * (1.0 + 0.001 * (c.context_tokens + c.tokens / 2)) for c in chunks)


def test_seconds_of_a_stretch() -> None:
    """Chunks of 2,048 tokens; half a chunk takes half of its time."""
    prices = Prices(ContextCost(), BLOCK, lambda blocks, small: (blocks, 1))
    first, second = 2048 * 2.024, 2048 * (1.0 + 2.048 + 1.024)
    assert prices.compute_s(0, 2048) == pytest.approx(first)
    assert prices.compute_s(2048, 4096) == pytest.approx(second)
    assert prices.compute_s(1024, 3072) == pytest.approx((first + second) / 2)
    assert prices.block_s(2048, 4096) == pytest.approx(second / 512)


def test_the_best_weight_of_those_who_used_it_lately() -> None:
    history = History()
    history.visit(prompt(0.0, 1, 2, weight=5.0), 0.0)
    # The first stretch was used by the heavy one; the second is new.
    assert history.visit(prompt(10.0, 1, 3), 10.0).weights == [5.0, 1.0, 1.0]
    late = LATELY_S + 1.0
    assert set(history.visit(prompt(late, 1, 3), late).weights) == {1.0}


QUARTERS = BlockSizes(4, 2, 1)
"""Bytes of blocks of 16, 8 and 4 bits."""


def shrink(shelf: Shelf, node: Node, bits: int) -> None:
    """A cached node has fewer bits."""
    shelf.pool.count_small(bits, 0, node.blocks)
    shelf.index.set_bits(node, bits)
    shelf.policy.unused(node)


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


# -- pins -----------------------------------------------------------------------------------------


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


# -- host -----------------------------------------------------------------------------------------


def test_used_within() -> None:
    """0.5 by 10 s, 0.25 by 20 s, and no more after that."""
    unused, edges_s = [0.5, 0.25], list(EDGES_S)
    assert used_within(unused, edges_s, 0.0, 10.0) == pytest.approx(0.5)
    assert used_within(unused, edges_s, 0.0, 5.0) == pytest.approx(0.25)
    assert used_within(unused, edges_s, 10.0, 10.0) == pytest.approx(0.5)
    assert used_within(unused, edges_s, 5.0, float("inf")) == pytest.approx(1 - 0.25 / 0.75)
    assert used_within(unused, edges_s, 20.0, 100.0) == 0.0


@pytest.mark.parametrize(
    ("hazard", "per_byte", "kept"),
    [
        (0.5, 1.0, True),  # 0.75 x (4 - 1) s > 1 s
        (0.5, 2.0, False),  # 0.75 x (4 - 2) s < 2 s
        (0.2, 1.0, True),  # 0.36 x 3 s > 1 s
        (0.15, 1.0, False),  # 0.28 x 3 s < 1 s: an end that is used once
        (0.99, 4.5, False),  # to load it takes longer than to compute it
    ],
)
def test_only_what_pays_goes_to_the_host(
    tmp_path: Path, hazard: float, per_byte: float, kept: bool
) -> None:
    cost = FakeCost(step=0.0, per_chunk_token=1.0, copy=0.0, per_byte=per_byte)
    shelf = Shelf(write_weights(tmp_path / "x.npz", hazard, hazard), 10, cost)
    shelf.put(prompt(0.0, 1, 2))
    shelf.index.reclaim(2)
    assert shelf.on_host() == ([1, 2] if kept else [])


def test_generated_text_and_what_is_old_are_dropped(even: str) -> None:
    shelf = Shelf(even, 10)
    shelf.put(prompt(0.0, 1), answer=1)
    shelf.put(prompt(20.0, 2))
    shelf.index.reclaim(3)
    assert shelf.on_host() == [2]


def test_the_host_keeps_what_is_worth_more(even: str) -> None:
    """One place there: the heavy one takes it from the first, and keeps it."""
    shelf = Shelf(even, 1)
    shelf.put(prompt(0.0, 1))
    shelf.index.reclaim(1)
    shelf.put(prompt(1.0, 2, weight=3.0))
    shelf.index.reclaim(1)
    assert shelf.on_host() == [2]
    shelf.put(prompt(2.0, 3, weight=2.0))
    shelf.index.reclaim(1)
    assert shelf.on_host() == [2]


def test_expectations_are_held_against_what_came() -> None:
    """Ten blocks were half expected to be used and were not; then five were used."""
    experience = Experience(1000)  # 20 blocks that came as expected stand at the beginning
    worth = Worth(prompt(0.0, 1), 0.0, Visit(0.0, 0), kept_s=5.0, kept_chance=0.5)
    experience.gone(worth, 10, 15.0)
    assert experience.life_s == 10.0
    assert experience.trust(0) == pytest.approx(20 / 25)
    experience.used(worth, 5)
    assert experience.trust(0) == pytest.approx(25 / 27.5)
    assert experience.trust(100_000) == pytest.approx(1.0)  # long ago


def test_loads_only_what_is_faster_to_load(even: str) -> None:
    slow = FakeCost(step=0.0, per_chunk_token=1.0, copy=7.0, per_byte=1.0)
    policy = Shelf(even, 10, slow).policy
    # 7 s and 1 s a block against 4 s a block.
    assert [policy.loads(0, blocks) for blocks in (1, 2, 3)] == [False, False, True]


def test_host_room() -> None:
    config = EngineConfig(total_blocks=30, block_tokens=BLOCK, block_bytes=1)
    assert SloAwareMemory(host_ratio=1.5).host_cache_blocks(config) == 45
    assert SloAwareMemory(host_ratio=0.0).host_cache_blocks(config) == 0


# -- guard ----------------------------------------------------------------------------------------


def test_by_age_both_tiers_go_by_last_use(even: str) -> None:
    shelf = Shelf(even, 1, guard=True)
    parts = shelf.policy._parts
    assert parts is not None
    shelf.put(prompt(0.0, 1, weight=9.0), until_s=1.0)
    shelf.put(prompt(2.0, 2))
    parts.order.switch(True)
    assert parts.guard is not None
    parts.guard._shadow, parts.guard._blocks = 0.5, 1.0  # half of the blocks hit: 0.5 x 3 s > 1 s
    assert shelf.gone(1) == [1]  # it is kept on the host
    assert shelf.on_host() == [1]
    assert shelf.gone(1) == [2]
    assert shelf.on_host() == [2]  # the newer one took its place


def test_an_engine_begins_by_value(even: str) -> None:
    """Values save seconds besides hits; a cache study, which counts hits alone, begins by age."""
    parts = Shelf(even, guard=True).policy._parts
    assert parts is not None and not parts.order.plain
    assert build_order("slo_aware", Surroundings(100, BLOCK)).plain  # type: ignore[attr-defined]


def test_the_shadow_finds_what_an_engine_could_find() -> None:
    """A prompt of 9 tokens that comes again: two full blocks, and the shadow knows three ids."""
    guard = Guard(Surroundings(100, BLOCK, whole_blocks=True))
    for turn in range(50):
        guard.observe(prompt(float(turn), 1, 2), 2.0 if turn else 0.0)
    assert guard._lead == pytest.approx(0.0)
    assert 0.6 < guard.shadow_rate < 2 / 3


def test_the_shadow_has_the_room_that_there_is() -> None:
    guard = Guard(Surroundings(100, BLOCK))
    guard.observe(prompt(0.0, 1, 2), 0.0)
    guard.resize(2)
    guard.observe(prompt(1.0, 3, 4), 0.0)
    guard.resize(100)
    guard.observe(prompt(2.0, 1, 2), 0.0)
    assert guard.shadow_rate == 0.0


def test_the_room_of_prompts_is_the_device_less_what_requests_have_for_themselves(
    even: str,
) -> None:
    """100 blocks, of which a request has 30 for its answer; one more is on the host."""
    shelf = Shelf(even, 10, guard=True)
    shelf.put(prompt(0.0, 1))
    shelf.index.reclaim(1)
    shelf.pool.referenced += 30
    req = prompt(1.0, 2, 3)
    node, _ = shelf.index.insert(req, request_keys(req), None, 2)  # held, and not its own
    shelf.pool.referenced += 2
    shelf.put(prompt(2.0, 4))
    parts = shelf.policy._parts
    assert node is not None and parts is not None and parts.guard is not None
    assert shelf.on_host() == [1]
    assert parts.guard._room_blocks == 100 - 30 + 1


def test_hits_of_heavy_classes_count_more_for_the_guard() -> None:
    guard = Guard(Surroundings(100, BLOCK))
    for turn in range(400):
        guard.observe(prompt(2.0 * turn, 1, weight=9.0), 2.0)
        guard.observe(prompt(2.0 * turn + 1.0, 2), 1.0)  # half of what a shadow hits
    assert guard._lead / guard._compared == pytest.approx(-1 / 20, abs=0.002)


# -- with an engine -------------------------------------------------------------------------------


def run(memory: Any, requests: list[Request], blocks: int, **config: Any) -> Any:
    """Records and events of a run, one step a second."""
    events: list[Any] = []
    engine = make_engine(
        FcfsScheduler(max_num_batched_tokens=64, max_num_seqs=4),
        blocks,
        memory=memory,
        cost=FakeCost(step=1.0, copy=0.0),
        sink=events.append,
        prefix_caching=True,
        **config,
    )
    BlockingDriver(engine, requests, [1] * len(requests)).run()
    return engine.recorder.build(engine), events


def test_cached_blocks_that_lose_bits_are_found_more_often(even: str) -> None:
    """Five prompts of eight blocks come in turn, and there is room for 28 blocks. At 8 bits, two to
    a slab, more of them stay. The step waits for the conversions.
    """
    hits = {}
    for bits in (16, 8):
        loose = SLOClass("loose", min_kv_bits=bits)
        asked = [
            replace(prompt(1.0 * i, *range(8 * (i % 5), 8 * (i % 5) + 8), index=i), slo_class=loose)
            for i in range(60)
        ]
        memory = SloAwareMemory(even, host_ratio=0.0, guard=False, tail_tokens=0)
        sizes = {"block_bytes": 8, "small_block_bytes": (4, 2), "slabs": Slabs(1, 2, 4)}
        record, events = run(memory, asked, 28, **sizes)
        hits[bits] = record.prefix_hit_tokens
        shrunk = [event[2:] for event in events if event[1] == "requantise"]
        assert {row[0] for row in shrunk} == ({""} if bits == 8 else set())
        assert all(row[2:] == (16, 8) for row in shrunk)
    assert hits[8] > 1.2 * hits[16] > 0


def test_without_content_ids_nothing_happens(even: str) -> None:
    plain = [request(i, 9, 3, float(i)) for i in range(20)]
    record, events = run(SloAwareMemory(even), plain, 12)
    assert events == run(LruMemory(), plain, 12)[1]
    assert set(record.extra.values()) == {0.0} and record.notes == []


def test_without_prefix_caching_there_is_nothing_to_count(even: str) -> None:
    """But weights that are given are read, so that a wrong file is met."""
    assert make_engine(FcfsScheduler(), 12, memory=SloAwareMemory(even)).memory.counters == {}
    with pytest.raises(ConfigError, match=r"memory\.weights: no such file"):
        SloAwareMemory("no such file")


def drawn(kind: str, prompts: int = 500) -> list[Request]:
    random_ = random.Random(1)
    first = {
        "random": lambda i: 8 * random_.randrange(120),
        "scan": lambda i: 8 * (i % 120),
        "no reuse": lambda i: 8 * i,
    }[kind]
    starts = [first(i) + 1 for i in range(prompts)]
    return [prompt(2.0 * i, *range(s, s + 8), index=i) for i, s in enumerate(starts)]


@pytest.mark.parametrize("kind", ["random", "scan", "no reuse"])
@pytest.mark.parametrize("host_ratio", [0.0, 1.0])
def test_never_more_than_a_point_under_lru(kind: str, host_ratio: float) -> None:
    rates = []
    for memory in (LruMemory(), SloAwareMemory(host_ratio=host_ratio)):
        record, _ = run(memory, drawn(kind), 400)
        rates.append(record.prefix_hit_tokens / record.prefix_query_tokens)
    assert rates[1] >= rates[0] - 0.01


def test_a_fallback_is_told(tmp_path: Path) -> None:
    """A model that expects the less of a prompt the more often it was used. That is right while
    more prompts than there is room for come in turn. Then 50 come again and again, and each takes
    the place of another, until the guard goes by age.
    """
    weights = write_weights(tmp_path / "bad.npz", 0.5, 0.5, edges_s=(1e3, 1e4), by_uses=-3.0)
    firsts = [100_000 + 4 * (i % 200) for i in range(500)]
    firsts += [4 * (i % 50) if i % 2 else 10_000 + 4 * i for i in range(600)]
    asked = [prompt(2.0 * i, f, f + 1, f + 2, index=i) for i, f in enumerate(firsts)]
    lru = run(LruMemory(), asked, 450)[0]
    record, _ = run(SloAwareMemory(weights, host_ratio=0.0), asked, 450)
    assert record.prefix_hit_tokens > lru.prefix_hit_tokens
    assert record.notes[0].startswith("fell back to lru at request")
    assert record.extra["guard_fallbacks"] >= 1.0
    assert 200 < record.extra["guard_fallback_requests"] < record.extra["guard_requests"]
    free = run(SloAwareMemory(weights, host_ratio=0.0, guard=False), asked, 450)[0]
    assert free.notes == [] and free.prefix_hit_tokens < record.prefix_hit_tokens


@pytest.mark.parametrize("ids", [(7, 7, 7), (1, 2, 1), (3, 4, 5, 4, 3)])
def test_an_id_at_several_places(ids: tuple[int, ...]) -> None:
    """Chained ids have one place each, but a trace may say otherwise."""
    prompts = [ids, (*ids, 9), ids[1:], ids[:-1], (9, *ids), ids, ids[::-1], ids]
    asked = [Request(str(i), float(i), 512 * len(p), 1, hash_ids=p) for i, p in enumerate(prompts)]
    order = build_order("slo_aware", Surroundings(4, 512))
    assert CacheReplay(4, 512, order).hits(asked)[0] == 0
    small = [prompt(float(i), *p, index=i) for i, p in enumerate(prompts)]
    record, _ = run(SloAwareMemory(), small, 16)
    assert record.table.state == ["finished"] * len(prompts)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pin_share": 1.5}, "memory.pin_share: expected from 0 to 1, got 1.5"),
        ({"weights": "none.npz"}, "memory.weights: none.npz: no such file"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(SloAwareMemory(**settings), [], 12)
