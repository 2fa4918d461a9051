"""`radix` and `hicache`: whole leaves, the one that was looked up longest ago first."""

from __future__ import annotations

from typing import Any

import pytest
from harness import BlockingDriver, FakeCost, make_engine, request
from tiered import TieredLru

from superinfer.draft import Draft
from superinfer.engine import Engine
from superinfer.errors import ConfigError
from superinfer.memory.blocks.pool import BlockPool, HostPool
from superinfer.memory.hicache import HiCacheMemory
from superinfer.memory.index.keys import request_keys
from superinfer.memory.index.node import Node
from superinfer.memory.index.prefix import PrefixIndex
from superinfer.memory.index.tiered import TieredIndex
from superinfer.memory.lru import LruMemory
from superinfer.memory.radix import RadixMemory
from superinfer.request import Request
from superinfer.schedulers.sglang import SglangScheduler


def prompt(*ids: int) -> Request:
    """One content id a token."""
    return request(0, len(ids), 0, hash_ids=ids, hash_block_tokens=1)


class Shelf:
    """An index of single tokens."""

    def __init__(self, memory: Any = None) -> None:
        self.pool = BlockPool(100)
        self.index = PrefixIndex(self.pool, 1, memory or RadixMemory())

    def put(self, now: float, *ids: int) -> Node:
        req = prompt(*ids)
        node, held = self.index.acquire(req, request_keys(req), len(ids))
        self.pool.referenced += len(ids) - held
        node, _ = self.index.insert(req, request_keys(req), node, len(ids))
        assert node is not None
        self.index.release(node, now)
        return node

    def find(self, *ids: int) -> Node | None:
        return self.index.find(prompt(*ids), request_keys(prompt(*ids)), len(ids))

    def reclaim(self, blocks: int) -> list[int]:
        return [count for _, count in self.index.reclaim(blocks)]


def test_a_leaf_goes_as_a_whole() -> None:
    shelf = Shelf()
    shelf.put(1.0, 1, 2, 3, 4, 5)
    shelf.put(2.0, 1, 2, 6)
    assert shelf.reclaim(1) == [3]
    assert shelf.pool.cached == 3
    assert shelf.reclaim(2) == [1, 2]
    assert shelf.pool.cached == 0


@pytest.mark.parametrize("memory", [RadixMemory, LruMemory])
def test_a_look_up_counts_as_a_use_of_the_whole_path(memory: Any) -> None:
    shelf = Shelf(memory())
    shelf.put(1.0, 1, 2)
    shelf.put(1.0, 1, 2, 3)
    shelf.put(2.0, 7, 8)
    node = shelf.find(1, 2, 3)
    assert node is not None
    shelf.index.touch(node, 3.0)
    assert shelf.reclaim(2)[0] in (1, 2)
    assert shelf.find(7, 8) is None
    assert shelf.find(1, 2, 3) is node


def test_a_look_up_splits_an_edge_where_the_prefix_ends() -> None:
    shelf = Shelf()
    shelf.put(1.0, 1, 2, 3, 4)
    node = shelf.find(1, 2, 9)
    assert node is not None
    assert (node.start, node.stop, len(node.children)) == (0, 2, 1)
    shelf.index.touch(node, 5.0)
    assert shelf.reclaim(1) == [2]
    assert shelf.find(9) is None


def test_of_one_moment_a_path_goes_before_what_was_used_after_it() -> None:
    shelf = Shelf()
    shelf.put(1.0, 1, 2)
    shelf.put(2.0, 1, 2, 3, 4, 5)
    shelf.put(2.0, 8, 9)
    assert shelf.reclaim(5) == [3, 2]
    assert shelf.find(8, 9) is not None


def test_many_look_ups_keep_one_entry() -> None:
    memory = RadixMemory()
    shelf = Shelf(memory)
    node = shelf.put(1.0, 1, 2)
    for now in range(2, 50):
        shelf.index.touch(node, float(now))
    assert len(memory._leaves._heap) == 1
    assert shelf.reclaim(1) == [2]


# -- what a scheduler may ask of a draft ----------------------------------------------------------


def filled(cached: int) -> Engine:
    """An engine of 40 tokens, some of them left by a request that has ended at 1.0."""
    engine = make_engine(
        SglangScheduler(), 40, memory=RadixMemory(), block_tokens=1, prefix_caching=True
    )
    ids = tuple(range(cached))
    left = request(0, cached, 0, max_tokens=1, hash_ids=ids, hash_block_tokens=1)
    BlockingDriver(engine, [left], [1]).run()
    return engine


def test_find_prefix_leaves_a_token_to_compute() -> None:
    engine = filled(20)
    seq = engine.submit(request(1, 20, 0, hash_ids=tuple(range(20)), hash_block_tokens=1), 2.0)
    node = Draft(engine, 2.0).find_prefix(seq)
    assert node is not None
    assert (node.stop, node.last_access_s) == (19, 1.0)
    Draft(engine, 3.0).find_prefix(seq, touch=True)
    assert node.last_access_s == 3.0


def test_clear_makes_room_before_the_step() -> None:
    """With 20 tokens cached and a prompt of 5, 15 are free; 16 are wanted: the leaf goes."""
    for wanted, cached in ((15, 20), (16, 0), (99, 0)):
        engine = filled(20)
        engine.submit(request(1, 5, 0, max_tokens=2), 2.0)
        ask = engine.scheduler.plan

        def plan(draft: Draft, now: float, wanted: int = wanted, ask: Any = ask) -> None:
            ask(draft, now)
            draft.clear(wanted)

        engine.ask = plan
        assert engine.plan(2.0) is not None
        assert engine.pool.cached == cached


def test_rollback_forgets_what_was_to_be_cleared() -> None:
    draft = Draft(filled(20), 2.0)
    draft.clear(30)
    draft.rollback()
    assert draft.clear_blocks == 0


# -- the host tier --------------------------------------------------------------------------------

A, B, X, C = (
    (33, (1, 2, 3)),
    (34, (1, 2, 4)),
    (50, (11, 12, 13, 14)),
    (35, (1, 2, 5)),
)
"""Prompt and content ids, one for 16 tokens: X drives the others out of a pool of 60."""


def copies(policy: Any, *jobs: tuple[int, tuple[int, ...]], **memory: Any) -> list[Any]:
    """What moves between the tiers while requests of two output tokens come one by one."""
    events: list[Any] = []
    engine = make_engine(
        SglangScheduler(),
        60,
        memory=HiCacheMemory(write_policy=policy, **memory),
        cost=FakeCost(),
        sink=events.append,
        block_tokens=1,
        prefix_caching=True,
    )
    requests = [
        request(i, tokens, 0, 10.0 * i, max_tokens=2, hash_ids=keys, hash_block_tokens=16)
        for i, (tokens, keys) in enumerate(jobs)
    ]
    BlockingDriver(engine, requests, [2] * len(jobs)).run()
    kinds = ("backup", "offload", "load")
    return [(event[1], event[-1]) for event in events if event[1] in kinds]


def test_selective_copies_what_a_second_request_uses() -> None:
    """The 32 tokens that A and B share; C loads them back when X has driven them out."""
    assert copies("write_through_selective", A, B, X, C) == [("backup", 32), ("load", 32)]


def test_selective_does_not_copy_what_one_request_used() -> None:
    assert copies("write_through_selective", A, X, C) == []


def test_write_through_copies_at_once() -> None:
    """Prompts when they are computed, the one answer token in the cache when they end."""
    assert copies("write_through", A, X, C) == [
        *(("backup", tokens) for tokens in (33, 1, 50, 1)),
        ("load", 32),
        ("backup", 3),
        ("backup", 1),
    ]


def test_write_back_copies_what_leaves_the_device() -> None:
    """All 34 tokens of A make way for X; then X and its answer for C."""
    assert copies("write_back", A, X, C) == [("offload", 34), ("load", 32), ("offload", 51)]


def test_fewer_than_ten_tokens_are_not_loaded() -> None:
    short = ((9, (1,)), X, (12, (1, 6)))
    ten = ((10, (1,)), X, (12, (1, 6)))
    assert ("load", 9) not in copies("write_back", *short)
    assert not [copy for copy in copies("write_back", *ten) if copy[0] == "load"]
    long = ((17, (1, 2)), X, (20, (1, 6)))
    assert ("load", 16) in copies("write_back", *long)


def test_the_longest_prefix_is_that_on_the_device() -> None:
    """C and Y come when X has driven A out: Y's 16 tokens are there, and C's 32 on the host."""
    events: list[Any] = []
    engine = make_engine(
        SglangScheduler(policy="lpm"),
        60,
        memory=HiCacheMemory(write_policy="write_back"),
        sink=events.append,
        block_tokens=1,
        prefix_caching=True,
    )
    jobs = ((0.0, A), (10.0, X), (20.0, C), (20.0, (20, (11, 20))))
    requests = [
        request(i, tokens, 0, at_s, name, max_tokens=2, hash_ids=keys, hash_block_tokens=16)
        for i, ((at_s, (tokens, keys)), name) in enumerate(zip(jobs, "AXCY", strict=True))
    ]
    BlockingDriver(engine, requests, [2] * len(jobs)).run()
    assert [event[2] for event in events if event[1] == "admit"] == ["A", "X", "Y", "C"]


def test_the_host_pool_is_a_multiple_of_the_device_pool() -> None:
    """With a host of 30 tokens A's 33 cannot be copied."""
    assert copies("write_through", A, host_ratio=0.5) == [("backup", 1)]
    memory = HiCacheMemory()
    engine = make_engine(SglangScheduler(), 50, memory=memory, prefix_caching=True)
    assert engine.host.cache_total == 100


@pytest.mark.parametrize(
    ("jobs", "loads"), [("PQXQ", [19]), ("PQXP", []), ("PQPXP", [19]), ("PQPXQ", [])]
)
def test_the_oldest_leaves_make_room_on_the_host(jobs: str, loads: list[int]) -> None:
    """X drives P and Q out of the device, and its copy needs the room of one of them: of that which
    was used longest ago. Only the other one is loaded back.
    """
    prompts = {"P": (20, (21, 22)), "Q": (20, (31, 32)), "X": (50, (11, 12, 13, 14))}
    found = copies("write_through", *(prompts[name] for name in jobs), host_ratio=4 / 3)
    assert [tokens for kind, tokens in found if kind == "load" and tokens > 10] == loads


def test_a_look_up_finds_a_leaf_on_the_host_its_new_place() -> None:
    """Of two paths on the host the one that was looked up since makes room last."""
    memory = TieredLru()
    host = HostPool(0, 8)
    index = TieredIndex(BlockPool(100), host, 1, memory, memory)
    nodes = []
    for now, first in ((1.0, 1), (2.0, 5)):
        req = prompt(first, first + 1)
        index.pool.referenced += 2
        node, _ = index.insert(req, request_keys(req), None, 2)
        assert node is not None
        index.release(node, now)
        nodes.append(node)
    index.reclaim(4)
    index.touch(nodes[0], 3.0)
    assert index.reclaim_host(2) == 2
    assert [node.parent is None for node in nodes] == [False, True]
    assert index.reclaim_host(2) == 2


def test_a_host_pool_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"memory\.host_ratio: expected more than 0, got 0"):
        HiCacheMemory(host_ratio=0)
