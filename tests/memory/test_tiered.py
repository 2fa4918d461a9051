"""Cached blocks on the host: what goes there, what comes back, and what the copies cost."""

from __future__ import annotations

from typing import Any

import pytest
from harness import BlockingDriver, FakeCost, make_engine
from hypothesis import given, settings
from hypothesis import strategies as st
from memory.test_prefix import prompt as book_prompt
from shelves import block_prompt
from tiered import TieredLru

from superinfer.draft import Draft
from superinfer.engine import Engine
from superinfer.memory.blocks.pool import BlockPool, HostPool
from superinfer.memory.blocks.slabs import EQUAL_SIZES, NO_BLOCKS, Blocks, BlockSizes
from superinfer.memory.index.keys import request_keys
from superinfer.memory.index.node import Node
from superinfer.memory.index.prefix import PrefixIndex
from superinfer.memory.index.tiered import TieredIndex
from superinfer.memory.lru import LruMemory
from superinfer.plan import Plan
from superinfer.request import Request, SLOClass
from superinfer.schedulers.fcfs import FcfsScheduler

BLOCK, HASH_TOKENS = 4, 6


def prompt(index: int, *ids: int, arrival_s: float = 0.0) -> Request:
    loose = SLOClass("loose", min_kv_bits=4)
    return block_prompt(index, *ids, arrival_s=arrival_s, slo_class=loose)


class Shelf:
    """An index of 8 device blocks, filled path by path."""

    def __init__(self, sizes: BlockSizes = EQUAL_SIZES, **memory: Any) -> None:
        self.pool = BlockPool(8)
        self.policy = TieredLru(**memory)
        self.host = HostPool(0, self.policy.host_size_blocks, sizes)
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
    assert shelf.index.take_evicted() == Blocks(3)


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


def test_a_prompt_finds_nothing_behind_what_differs() -> None:
    """Its last blocks look like those behind the edge that it leaves half way."""
    shelf = Shelf()
    shelf.put(1.0, 1, 2, 3, 4, 5, 6)
    shelf.put(2.0, 1, 2, 3, 4, 7)
    assert shelf.found(1, 2, 9, 9, 5, 6) == 2
    shelf.index.reclaim(6)
    assert shelf.found(1, 2, 9, 9, 5, 6) == 2


def test_a_copy_that_is_there_is_not_made_again() -> None:
    shelf = Shelf(exclusive=False)
    shelf.put(1.0, 1, 2)
    shelf.index.reclaim(2)
    shelf.put(2.0, 1, 2)
    shelf.index.take_evicted()
    shelf.index.reclaim(2)
    assert shelf.index.take_evicted() == NO_BLOCKS
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
    assert shelf.index.take_evicted() == Blocks(5)  # three of them drove each other out


@pytest.mark.parametrize("host_blocks", range(1, 9))
@pytest.mark.parametrize("older", [False, True])
def test_blocks_that_leave_at_once_end_as_if_they_left_one_by_one(
    host_blocks: int, older: bool
) -> None:
    """Against a host that is full of a path used before or after them."""
    ends = []
    for step in (1, 2, 3, 6):
        shelf = Shelf(host_size_blocks=host_blocks)
        shelf.put(1.0, *range(10, 17))
        shelf.index.reclaim(7)
        shelf.put(0.5 if older else 2.0, 1, 2, 3, 4, 5, 6)
        for _ in range(0, 6, step):
            shelf.index.reclaim(step)
        ends.append((shelf.places(), shelf.host.cached, shelf.index.take_evicted()))
    assert ends[1:] == ends[:1] * 3


@pytest.mark.parametrize("kept", [0, 1])
def test_what_is_dropped_takes_along_what_hangs_on_it(kept: int) -> None:
    """Be it dropped as a whole or in part; nothing of it is found under what is left."""
    shelf = Shelf()
    shelf.put(1.0, 1, 2, 3, 4)
    shelf.index.reclaim(2)
    shelf.policy.writes_back = False
    shelf.index.reclaim(2 - kept)
    assert shelf.places() == [(0, 1, "device")] * kept
    assert (shelf.pool.cached, shelf.host.cached) == (kept, 0)
    assert shelf.found(1, 3, 4, 5) == kept


def test_no_more_is_dropped_on_the_host_than_is_asked_for() -> None:
    """The older path of two blocks, and one block of the other."""
    shelf = Shelf()
    shelf.put(1.0, 1, 2)
    shelf.put(2.0, 5, 6, 7, 8)
    shelf.index.reclaim(6)
    assert shelf.index.reclaim_host(3) == 3
    assert shelf.places() == [(0, 3, "host")]


def test_what_was_dropped_on_the_host_is_not_found_when_others_take_its_place() -> None:
    """The path goes on in another way than it did, and leaves again."""
    shelf = Shelf()
    shelf.put(1.0, 1, 2, 3, 4)
    shelf.index.reclaim(4)
    shelf.index.reclaim_host(2)
    shelf.put(2.0, 1, 2, 7, 8)
    shelf.index.reclaim(4)
    assert shelf.places() == [(0, 4, "host")]
    assert (shelf.found(1, 2, 3, 4), shelf.found(1, 2, 7, 8)) == (2, 4)


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
            shelf.index.hit(prompt(0, 1, 2, 3, 4), node)
        shelf.index.release(node, now)
        blocks.append(shelf.index.take_backed_up().number)
    assert blocks == copied
    assert shelf.places() == [(0, 4, "both")]
    shelf.index.reclaim(4)
    assert (shelf.places(), shelf.index.take_evicted()) == ([(0, 4, "host")], NO_BLOCKS)


def test_copies_of_blocks_on_the_device_are_not_driven_out() -> None:
    shelf = Shelf(write_through_hits=1, host_size_blocks=4)
    shelf.put(1.0, 1, 2, 3)
    shelf.put(2.0, 5, 6)
    assert shelf.places() == [(0, 2, "device"), (0, 3, "both")]
    shelf.index.reclaim(3)
    shelf.put(3.0, 8)  # its copy takes the fourth block
    shelf.put(4.0, 9)  # and this one's the deepest of the path on the host alone
    assert shelf.places() == [(0, 1, "both"), (0, 1, "both"), (0, 2, "device"), (0, 2, "host")]


def test_a_copy_for_which_the_host_is_too_small_drives_nobody_out() -> None:
    shelf = Shelf(write_through_hits=1, host_size_blocks=4)
    shelf.put(1.0, 1, 2, 3)
    shelf.index.reclaim(3)
    shelf.put(2.0, *range(10, 15))
    assert shelf.places() == [(0, 3, "host"), (0, 5, "device")]


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


# -- blocks of fewer bits --------------------------------------------------------------------------

HALVES = BlockSizes(4, 2, 1)


def shrink(shelf: Shelf, node: Node, bits: int) -> None:
    """A cached node has fewer bits."""
    if node.bits < 16:
        shelf.pool.count_small(node.bits, 0, -node.blocks)
    shelf.pool.count_small(bits, 0, node.blocks)
    shelf.index.set_bits(node, bits)


def test_smaller_blocks_take_less_room_on_the_host() -> None:
    """Room for two blocks of 16 bits, 8 bytes. Three of 8 bits take 6 of them; of two of 16 bits
    that follow none fits beside them, and one drives out a block of 8 bits, the other both others.
    """
    shelf = Shelf(HALVES, host_size_blocks=2)
    shrink(shelf, shelf.put(1.0, 1, 2, 3), 8)
    shelf.index.reclaim(3)
    assert shelf.index.take_evicted() == Blocks(3, (3, 0))
    assert (shelf.host.cached, shelf.host.nbytes) == (3, 6)
    assert (shelf.host.cache_free, shelf.host.cache_room(8), shelf.host.taken) == (0, 1, 2)
    shelf.put(2.0, 5, 6)
    shelf.index.reclaim(1)
    assert shelf.places() == [(0, 1, "device"), (0, 2, "host"), (1, 2, "host")]
    shelf.index.reclaim(1)
    assert shelf.places() == [(0, 2, "host")]
    assert (shelf.found(1, 2, 3), shelf.found(5, 6)) == (0, 2)
    assert shelf.index.take_evicted() == Blocks(2)


def test_small_blocks_drive_out_no_more_than_they_need() -> None:
    """The host is full of four blocks of 16 bits; six of 4 bits need the room of two."""
    shelf = Shelf(HALVES, host_size_blocks=4)
    shelf.put(1.0, 1, 2, 3, 4)
    shelf.index.reclaim(4)
    shrink(shelf, shelf.put(2.0, *range(10, 16)), 4)
    shelf.index.reclaim(6)
    assert (shelf.found(1, 2, 3, 4), shelf.found(*range(10, 16))) == (2, 6)
    assert (shelf.host.cached, shelf.host.nbytes) == (8, 2 * 4 + 6)


def test_a_copy_has_the_bits_that_its_block_has() -> None:
    """Copied ahead at 16 bits, then at 8: the old copy counts no more, and the next hit makes
    another one.
    """
    shelf = Shelf(HALVES, write_through_hits=1)
    node = shelf.put(1.0, 1, 2)
    assert (shelf.index.take_backed_up(), shelf.host.nbytes) == (Blocks(2), 8)
    shrink(shelf, node, 8)
    assert (shelf.places(), shelf.host.nbytes) == ([(0, 2, "device")], 0)
    shelf.index.hit(prompt(0, 1, 2), node)
    assert (shelf.index.take_backed_up(), shelf.host.nbytes) == (Blocks(2, (2, 0)), 4)


def test_what_comes_back_is_counted_by_its_bits() -> None:
    shelf = Shelf(HALVES)
    shrink(shelf, shelf.put(1.0, 1, 2, 3), 4)
    shelf.index.reclaim(2)
    req = prompt(0, 1, 2, 3)
    node, _ = shelf.index.acquire(req, request_keys(req), 3)
    assert node is not None and shelf.index.load(node) == Blocks(2, (0, 2))


# -- random histories -----------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["use", "use", "hold", "leave", "reclaim", "reclaim", "undo"]),
        st.integers(0, 1 << 12),
        st.integers(0, 1 << 12),
    ),
    max_size=40,
)


class TwoShelves:
    """A tiered index beside one with room for all: they hold the same content.

    The device of the first has random blocks taken away; its host never drops any.
    """

    def __init__(self, exclusive: bool, through: int) -> None:
        policy = TieredLru(
            host_size_blocks=1 << 20, exclusive=exclusive, write_through_hits=through
        )
        self.pool, self.host = BlockPool(1 << 20), HostPool(0, 1 << 20)
        self.index = TieredIndex(self.pool, self.host, BLOCK, policy, policy)
        self.plain = PrefixIndex(BlockPool(1 << 20), BLOCK, LruMemory())
        self.held: list[tuple[Node, Node]] = []
        self.now = 0.0

    def hold(self, number: int, tokens: int, shared: int) -> None:
        req = book_prompt(number, tokens, shared, 0, HASH_TOKENS)
        keys, full = request_keys(req), tokens // BLOCK
        limit = max(0, (tokens - 1) // BLOCK)
        found, unheld = self.index.match(req, keys, limit)
        assert found == self.plain.match(req, keys, limit)[0]
        before = self.pool.referenced
        node, held = self.index.acquire(req, keys, found)
        assert (held, self.pool.referenced - before) == (found, unheld)
        if node is not None and not node.on_device:
            self.index.load(node)
            self.index.keep_loaded(node)
        other, _ = self.plain.acquire(req, keys, found)
        for index in (self.index, self.plain):
            index.pool.referenced += full - held
        node, _ = self.index.insert(req, keys, node, full)
        other, _ = self.plain.insert(req, keys, other, full)
        if node is not None and other is not None:
            self.held.append((node, other))

    def undo(self, number: int, tokens: int, shared: int) -> None:
        """An admission that is taken back leaves what it found where it was."""
        req = book_prompt(number, tokens, shared, 0, HASH_TOKENS)
        keys = request_keys(req)
        found, _ = self.index.match(req, keys, (tokens - 1) // BLOCK)
        before = (self.pool.referenced, self.pool.cached, self.host.cached)
        node, _ = self.index.acquire(req, keys, found)
        if node is not None:
            blocks = self.index.load(node).number
            self.index.unlock(node)
            self.index.unload(node, blocks)
        assert before == (self.pool.referenced, self.pool.cached, self.host.cached)

    def leave(self, which: int) -> None:
        if self.held:
            node, other = self.held.pop(which % len(self.held))
            self.index.release(node, self.now)
            self.plain.release(other, self.now)

    def check(self) -> None:
        nodes = list(self.index.nodes())
        assert self.pool.referenced == sum(n.blocks for n in nodes if n.refs)
        assert self.pool.cached == sum(n.blocks for n in nodes if n.on_device and not n.refs)
        assert self.host.cached == sum(n.blocks for n in nodes if n.on_host)
        assert all(n.on_device or (n.on_host and not n.refs) for n in nodes)
        assert sum(n.blocks for n in nodes) == sum(n.blocks for n in self.plain.nodes())


@pytest.mark.parametrize("through", [0, 2])
@pytest.mark.parametrize("exclusive", [False, True])
@settings(deadline=None, derandomize=True, max_examples=80)
@given(steps=STEPS)
def test_nothing_is_lost_between_the_tiers(
    exclusive: bool, through: int, steps: list[tuple[str, int, int]]
) -> None:
    shelves = TwoShelves(exclusive, through)
    for number, (what, one, other) in enumerate(steps):
        shelves.now += 1.0
        tokens, shared = 1 + one % 60, 6 * (other % 8)
        if what == "undo":
            shelves.undo(number, tokens, shared)
        elif what in ("use", "hold"):
            shelves.hold(number, tokens, shared)
            if what == "use":
                shelves.leave(-1)
        elif what == "leave":
            shelves.leave(one)
        else:
            shelves.index.reclaim(min(one % 12, shelves.pool.cached))
        shelves.check()


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
