"""The `lru` policy: what goes first, and what becomes of a victim's cache."""

from __future__ import annotations

from typing import Any

import pytest
from harness import FakeCost, make_engine, request
from shelves import reclaimed

from superinfer.draft import Draft
from superinfer.heaps import FEWEST
from superinfer.memory.blocks.pool import BlockPool
from superinfer.memory.index.keys import request_keys
from superinfer.memory.index.node import Node
from superinfer.memory.index.prefix import PrefixIndex
from superinfer.memory.lru import LruMemory
from superinfer.plan import Outcome, Transfer
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.sequence import Sequence, State

BLOCK = 4


class Shelf:
    """An index with one block per content id, filled path by path."""

    def __init__(self) -> None:
        self.pool = BlockPool(1000)
        self.index = PrefixIndex(self.pool, BLOCK, LruMemory())
        self.names: dict[Node, str] = {}

    def hold(self, name: str, *ids: int) -> Node:
        """Insert a prompt of these blocks and keep it in use."""
        req = request(0, BLOCK * len(ids), 0, hash_ids=ids, hash_block_tokens=BLOCK)
        keys = request_keys(req)
        node, held = self.index.acquire(req, keys, len(ids))
        self.pool.referenced += len(ids) - held
        node, _ = self.index.insert(req, keys, node, len(ids))
        assert node is not None
        self.names.setdefault(node, name)
        return node

    def put(self, name: str, now: float, *ids: int) -> Node:
        """Insert a prompt that was last used at `now`."""
        node = self.hold(name, *ids)
        self.index.release(node, now)
        return node

    def reclaim(self, blocks: int) -> list[tuple[str, int]]:
        return reclaimed(self.index, self.names, blocks)


def test_oldest_first() -> None:
    shelf = Shelf()
    shelf.put("new", 3.0, 1, 2)
    shelf.put("old", 1.0, 3, 4)
    shelf.put("middle", 2.0, 5, 6)
    assert shelf.reclaim(5) == [("old", 2), ("middle", 2), ("new", 1)]
    assert shelf.pool.cached == 1


def test_deepest_first_among_equals() -> None:
    shelf = Shelf()
    shelf.put("short", 1.0, 1, 2)
    shelf.put("long", 1.0, 3, 4, 5, 6)
    # Two blocks of the long one lie deeper than any other; then each gives its second.
    assert shelf.reclaim(2) == [("long", 2)]
    assert sorted(shelf.reclaim(2)) == [("long", 1), ("short", 1)]
    assert sorted(node.blocks for node in shelf.index.nodes()) == [1, 1]


def test_a_stem_goes_after_its_branches() -> None:
    shelf = Shelf()
    shelf.put("left", 1.0, 1, 2, 3)
    shelf.put("right", 2.0, 1, 2, 4, 5)
    # The stem (1, 2) was used at 2.0 with the right branch.
    assert shelf.reclaim(3) == [("left", 1), ("right", 2)]
    assert shelf.reclaim(2) == [("stem", 2)]


def test_use_renews() -> None:
    shelf = Shelf()
    shelf.put("one", 1.0, 1, 2)
    shelf.put("two", 2.0, 3, 4)
    shelf.put("one", 3.0, 1, 2)
    assert shelf.reclaim(3) == [("two", 2), ("one", 1)]


def test_what_is_in_use_stays() -> None:
    shelf = Shelf()
    node = shelf.hold("held", 1, 2)
    shelf.put("free", 5.0, 3, 4)
    assert shelf.reclaim(2) == [("free", 2)]
    with pytest.raises(AssertionError, match="nothing left"):
        shelf.reclaim(1)
    shelf.pool.cached = 0
    shelf.index.release(node, 6.0)
    assert shelf.reclaim(2) == [("held", 2)]


def test_one_call_takes_no_more_than_asked() -> None:
    shelf = Shelf()
    shelf.put("only", 1.0, *range(20))
    assert shelf.reclaim(7) == [("only", 7)]
    assert (shelf.pool.cached, [node.blocks for node in shelf.index.nodes()]) == (13, [13])


# -- fate of a victim -----------------------------------------------------------------------------


def resident_draft(memory: LruMemory, cost: Any, host_blocks: int) -> tuple[Draft, Sequence]:
    """A draft over one decoding sequence of 8 computed tokens (2 blocks of 4 bytes each)."""
    engine = make_engine(
        FcfsScheduler(), 100, memory=memory, cost=cost, host_blocks=host_blocks, block_bytes=4
    )
    seq = engine.submit(request(0, 8, 0), 0.0)
    plan = engine.plan(0.0)
    assert plan is not None
    engine.complete(plan, Outcome(1.0, [1.0]))
    assert seq.state is State.DECODING
    return Draft(engine, 1.0), seq


def test_what_waits_for_the_link_counts_in_a_fate() -> None:
    """Out and back takes 2 s, less than 3 s. Behind another copy of 1 s that way it is no less, and
    after half of that it is.
    """
    cost = FakeCost(step=1.0, per_chunk_token=0.25, copy=1.0)
    draft, seq = resident_draft(LruMemory("cheaper"), cost, 100)
    engine = draft._engine
    assert (draft.queued_s("d2h"), draft.swap_s(seq)) == (0.0, 2.0)
    before = draft.mark()
    assert draft.preempt(seq) == "swap"
    assert (draft.queued_s("d2h"), draft.queued_s("h2d"), draft.link_idle("d2h")) == (1, 0, False)
    draft.rollback(before)
    assert draft.link_idle("d2h")
    copy = Transfer(None, "d2h", 2, 8, 2, "background")
    engine.links.start([], [copy], 1.0)
    assert draft.swap_s(seq) == 3.0 and not draft.link_idle("d2h")
    assert draft.preempt(seq) == "recompute"
    assert [change.kind for change in draft.changes] == ["no_offload", "preempt"]
    draft.rollback()
    later = Draft(engine, 1.5)
    assert later.preempt(seq) == "swap"
    later.rollback()
    engine.links.landed(copy, 1.25)
    draft = Draft(engine, 1.25)
    assert draft.swap_s(seq) == 2.0 and draft.link_idle("d2h")


@pytest.mark.parametrize(
    ("preemption", "copy_s", "host_blocks", "fate"),
    [
        ("recompute", 0.0, 100, "recompute"),
        ("swap", 100.0, 100, "swap"),
        ("swap", 0.0, 1, "recompute"),
        ("swap", 0.0, 2, "swap"),
        # Prefill of 8 tokens takes 1 + 8 / 4 = 3 s; a copy there and back twice `copy_s`.
        ("cheaper", 1.25, 100, "swap"),
        ("cheaper", 1.5, 100, "recompute"),
        ("cheaper", 1.25, 1, "recompute"),
    ],
)
def test_fate(preemption: Any, copy_s: float, host_blocks: int, fate: str) -> None:
    cost = FakeCost(step=1.0, per_chunk_token=0.25, copy=copy_s)
    memory = LruMemory(preemption)
    draft, seq = resident_draft(memory, cost, host_blocks)
    assert memory.fate(seq, draft) == fate
    assert draft.preempt(seq) == fate
    assert seq.state is (State.SWAPPED if fate == "swap" else State.WAITING)


def test_uses_of_what_stays_leave_no_entries() -> None:
    """Two prompts are used in turns, and nothing has to go."""
    shelf = Shelf()
    for now in range(3 * FEWEST):
        shelf.put("often", float(2 * now), 1, 2)
        shelf.put("too", float(2 * now + 1), 3, 4)
    policy = shelf.index.policy
    assert isinstance(policy, LruMemory) and len(policy._heap) <= FEWEST + 1
    assert shelf.reclaim(3) == [("often", 2), ("too", 1)]
