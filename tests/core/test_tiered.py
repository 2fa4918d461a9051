"""Cached blocks on the host: what goes there, what comes back, and what the copies cost."""

from __future__ import annotations

from typing import Any

import pytest
from harness import BlockingDriver, FakeCost, make_engine, request
from tiered import TieredLru

from superinfer.draft import Draft
from superinfer.engine import Engine
from superinfer.memory.pool import BlockPool, HostPool
from superinfer.memory.prefix import Node, request_keys
from superinfer.memory.tiered import TieredIndex
from superinfer.plan import Plan
from superinfer.request import Request
from superinfer.schedulers.fcfs import FcfsScheduler

BLOCK = 4


def prompt(index: int, *ids: int, arrival_s: float = 0.0) -> Request:
    """One content id a block, and a token behind the last full block."""
    tokens = BLOCK * len(ids) + 1
    return request(index, tokens, 0, arrival_s, hash_ids=(*ids, 0), hash_block_tokens=BLOCK)


class Shelf:
    """An index of 8 device blocks, filled path by path."""

    def __init__(self, **memory: Any) -> None:
        self.pool = BlockPool(8)
        self.policy = TieredLru(**memory)
        self.host = HostPool(0, self.policy.host_size_blocks)
        self.index = TieredIndex(self.pool, self.host, BLOCK, self.policy, self.policy)

    def hold(self, *ids: int) -> Node:
        """Compute a prompt, or what is not found of it, and keep it in use."""
        req = prompt(0, *ids)
        keys = request_keys(req)
        node, held = self.index.acquire(req, keys, self.found(*ids))
        if node is not None and not node.on_device:
            self.index.load(node)
            self.index.keep_loaded(node)
        self.pool.referenced += len(ids) - held
        self.index.reclaim(self.pool.excess)
        node, _ = self.index.insert(req, keys, node, len(ids))
        assert node is not None
        return node

    def put(self, now: float, *ids: int) -> Node:
        """Use a prompt until `now`."""
        node = self.hold(*ids)
        self.index.release(node, now)
        return node

    def found(self, *ids: int) -> int:
        return self.index.match(prompt(0, *ids), request_keys(prompt(0, *ids)), len(ids))[0]

    def places(self) -> list[tuple[int, int, str]]:
        """Every edge: its blocks, and where it is."""
        signs = {(True, False): "device", (True, True): "both", (False, True): "host"}
        nodes = self.index.nodes()
        return sorted((n.start, n.stop, signs[n.on_device, n.on_host]) for n in nodes)


def test_an_evicted_block_stays_findable_on_the_host() -> None:
    shelf = Shelf()
    shelf.put(1.0, 1, 2, 3, 4)
    shelf.index.reclaim(3)
    assert shelf.places() == [(0, 1, "device"), (1, 4, "host")]
    assert (shelf.pool.cached, shelf.host.cached) == (1, 3)
    assert shelf.found(1, 2, 3, 4) == 4
    assert shelf.index.take_evicted() == 3


def test_a_path_evicted_block_by_block_is_one_edge() -> None:
    shelf = Shelf()
    shelf.put(1.0, *range(1, 9))
    for _ in range(7):
        shelf.index.reclaim(1)
    assert shelf.places() == [(0, 1, "device"), (1, 8, "host")]
    shelf.index.reclaim(1)
    assert shelf.places() == [(0, 8, "host")]
    assert shelf.found(*range(1, 9)) == 8
    assert (shelf.pool.cached, shelf.host.cached) == (0, 8)


@pytest.mark.parametrize(
    ("exclusive", "place", "copies"), [(True, "device", 1), (False, "both", 3)]
)
def test_a_block_that_is_loaded_back(exclusive: bool, place: str, copies: int) -> None:
    """The prompt takes blocks 1 to 3 back of the four; the rest stays on the host."""
    shelf = Shelf(exclusive=exclusive)
    shelf.put(1.0, 1, 2, 3, 4)
    shelf.index.reclaim(3)
    shelf.put(2.0, 1, 2, 3)
    assert shelf.places() == [(0, 1, "device"), (1, 3, place), (3, 4, "host")]
    assert (shelf.pool.cached, shelf.pool.referenced, shelf.host.cached) == (3, 0, copies)


def test_a_copy_that_is_there_is_not_made_again() -> None:
    shelf = Shelf(exclusive=False)
    shelf.put(1.0, 1, 2)
    shelf.index.reclaim(2)
    shelf.put(2.0, 1, 2)
    shelf.index.take_evicted()
    shelf.index.reclaim(2)
    assert shelf.index.take_evicted() == 0
    assert shelf.places() == [(0, 2, "host")]


def test_the_oldest_leaf_makes_room_on_the_host() -> None:
    """Four host blocks: the second path drives out the two deepest blocks of the first."""
    shelf = Shelf(host_size_blocks=4)
    shelf.put(1.0, 1, 2, 3)
    shelf.put(2.0, 5, 6, 7)
    shelf.index.reclaim(6)
    assert shelf.places() == [(0, 1, "host"), (0, 3, "host")]
    assert (shelf.found(1, 2, 3), shelf.found(5, 6, 7)) == (1, 3)


def test_a_host_smaller_than_what_leaves_keeps_the_beginning() -> None:
    shelf = Shelf(host_size_blocks=2)
    shelf.put(1.0, 1, 2, 3, 4, 5)
    shelf.index.reclaim(5)
    assert (shelf.places(), shelf.host.cached) == ([(0, 2, "host")], 2)


def test_what_is_dropped_takes_along_what_hangs_on_it() -> None:
    shelf = Shelf()
    shelf.put(1.0, 1, 2, 3)
    shelf.index.reclaim(2)
    shelf.policy.writes_back = False
    shelf.index.reclaim(1)
    assert (shelf.places(), shelf.pool.cached, shelf.host.cached) == ([], 0, 0)


def test_too_short_a_stretch_is_not_loaded() -> None:
    shelf = Shelf(load_min_tokens=3 * BLOCK)
    shelf.put(1.0, 1, 2, 3, 4)
    shelf.index.reclaim(2)
    assert shelf.found(1, 2, 3, 4) == 2
    shelf.index.reclaim(1)
    assert shelf.found(1, 2, 3, 4) == 4


@pytest.mark.parametrize(("exclusive", "place"), [(True, "device"), (False, "both")])
def test_blocks_computed_again_are_on_the_device(exclusive: bool, place: str) -> None:
    """They were not worth a copy back, so the prompt computes them: no duplicate appears."""
    shelf = Shelf(load_min_tokens=99, exclusive=exclusive)
    shelf.put(1.0, 1, 2, 3, 4)
    shelf.index.reclaim(3)
    shelf.put(2.0, 1, 2, 3)
    assert shelf.places() == [(0, 1, "device"), (1, 3, place), (3, 4, "host")]
    assert (shelf.pool.referenced, shelf.pool.cached) == (0, 3)


@pytest.mark.parametrize(("hits", "copied"), [(1, [4, 0, 0]), (2, [0, 4, 0]), (3, [0, 0, 4])])
def test_write_through_at_the_kth_hit(hits: int, copied: list[int]) -> None:
    """Computing counts as the first hit, each request that finds it as one more."""
    shelf = Shelf(write_through_hits=hits)
    blocks = []
    for now in (1.0, 2.0, 3.0):
        node = shelf.hold(1, 2, 3, 4)
        if now > 1.0:
            shelf.index.hit(node)
        shelf.index.release(node, now)
        blocks.append(shelf.index.take_backed_up())
    assert blocks == copied
    assert shelf.places() == [(0, 4, "both")]
    shelf.index.reclaim(4)
    assert (shelf.places(), shelf.index.take_evicted()) == ([(0, 4, "host")], 0)


def test_copies_of_blocks_on_the_device_are_not_driven_out() -> None:
    shelf = Shelf(write_through_hits=1, host_size_blocks=4)
    shelf.put(1.0, 1, 2, 3)
    shelf.put(2.0, 5, 6)
    assert shelf.places() == [(0, 2, "device"), (0, 3, "both")]
    shelf.index.reclaim(3)
    shelf.put(3.0, 8)  # its copy takes the fourth block
    shelf.put(4.0, 9)  # and this one's the deepest of the path on the host alone
    assert shelf.places() == [(0, 1, "both"), (0, 1, "both"), (0, 2, "device"), (0, 2, "host")]


def test_generated_text_goes_to_the_host_like_the_rest() -> None:
    shelf = Shelf()
    node = shelf.hold(1, 2)
    shelf.index.add_answer(prompt(0, 1, 2), node, 4, 1.0)
    shelf.index.release(node, 1.0)
    for _ in range(4):
        shelf.index.reclaim(1)
    assert shelf.places() == [(0, 2, "device"), (2, 6, "host")]
    shelf.index.reclaim(1)
    assert shelf.places() == [(0, 1, "device"), (1, 2, "host"), (2, 6, "host")]


# -- in an engine ---------------------------------------------------------------------------------

COST = FakeCost(step=1.0, copy=8.0, per_byte=0.5)


def lines(memory: TieredLru, requests: list[Request], blocks: int, **engine: Any) -> list[Any]:
    """Per plan: when, chunk tokens, and the copies as (direction, blocks, seconds waited)."""
    found: list[Any] = []

    def note(core: Engine, plan: Plan) -> None:
        copies = [
            f"{copy.timing} {copy.direction} {copy.blocks}"
            for copy in plan.before_step + plan.background
        ]
        found.append((plan.now, [chunk.tokens for chunk in plan.chunks], copies))

    core = make_engine(
        FcfsScheduler(watermark=0.0),
        blocks,
        memory=memory,
        cost=COST,
        prefix_caching=True,
        **engine,
    )
    BlockingDriver(core, requests, [1] * len(requests), note).run()
    return found


def test_the_step_waits_for_copies_both_ways() -> None:
    """Four device blocks. The second prompt drives out three blocks of the first: a copy of
    8 + 3 / 2 s before its step. The third finds them all and drives out those of the second, its
    own answer block included: two copies of 8 + 1.5 s before a step of one token.
    """
    requests = [
        prompt(0, 1, 2, 3),
        prompt(1, 4, 5, 6, arrival_s=2.0),
        prompt(2, 1, 2, 3, arrival_s=20.0),
    ]
    assert lines(TieredLru(exclusive=True), requests, 4) == [
        (0.0, [13], []),
        (2.0, [13], ["before_step d2h 3"]),
        (20.0, [1], ["before_step h2d 3", "before_step d2h 3"]),
    ]


def test_bytes_are_counted() -> None:
    requests = [prompt(0, 1, 2, 3), prompt(1, 4, 5, 6, arrival_s=2.0)]
    requests += [prompt(2, 1, 2, 3, arrival_s=20.0)]
    events: list[Any] = []
    core = make_engine(
        FcfsScheduler(watermark=0.0),
        4,
        memory=TieredLru(exclusive=True),
        cost=COST,
        sink=events.append,
        prefix_caching=True,
        block_bytes=100,
    )
    BlockingDriver(core, requests, [1, 1, 1]).run()
    record = core.recorder.build(core)
    assert record.table.h2d_bytes.tolist() == [0, 0, 300]
    assert record.cache_d2h_bytes == 600
    assert record.table.cached_tokens.tolist() == [0, 0, 12]
    told = [event[1:] for event in events if event[1] in ("load", "offload")]
    assert told == [("offload", "", 3), ("load", "r2", 3), ("offload", "", 3)]


def test_a_copy_back_in_the_background_delays_one_request_alone() -> None:
    """Every block gets a copy ahead, so evictions need none. The third request finds one of its two
    blocks on the host and has to wait for 8 + 1 / 2 s. The fourth does not wait for that copy: it
    shares the block on the device and computes the other one again.
    """
    memory = TieredLru(writes_back=False, write_through_hits=1, load_timing="background")
    requests = [
        prompt(0, 1, 2),
        prompt(1, 4, 5, 6, 7, 8, arrival_s=2.0),
        prompt(2, 1, 2, arrival_s=40.0),
        prompt(3, 1, 2, arrival_s=41.0),
    ]
    assert lines(memory, requests, 7) == [
        (0.0, [9], []),
        (1.0, [], ["background d2h 2"]),
        (2.0, [21], []),
        (3.0, [], ["background d2h 5"]),
        (40.0, [], ["background h2d 1"]),
        (41.0, [5], []),
        (48.5, [1], []),
    ]


def test_a_rolled_back_admission_leaves_the_blocks_on_the_host() -> None:
    core = make_engine(
        FcfsScheduler(watermark=0.0), 4, memory=TieredLru(exclusive=True), prefix_caching=True
    )
    requests = [prompt(0, 1, 2, 3), prompt(1, 4, 5, 6, arrival_s=2.0)]
    BlockingDriver(core, requests, [1, 1]).run()
    assert core.tier is not None
    seq = core.submit(prompt(2, 1, 2, 3), 9.0)
    before = (core.pool.referenced, core.pool.cached, core.host.cached)
    draft = Draft(core, 9.0)
    assert draft.try_admit(seq)
    assert [(t.direction, t.blocks) for t in draft.before_step] == [("h2d", 3)]
    assert core.pool.referenced == 4
    draft.rollback()
    assert draft.before_step == []
    assert (core.pool.referenced, core.pool.cached, core.host.cached) == before
    assert not any(node.on_device for node in core.tier.nodes() if node.keys == (1, 2, 3))
    assert draft.try_admit(seq)


def test_without_room_on_the_host_there_is_no_tier() -> None:
    core = make_engine(
        FcfsScheduler(), 4, memory=TieredLru(host_size_blocks=0), prefix_caching=True
    )
    assert core.prefix is not None and core.tier is None
