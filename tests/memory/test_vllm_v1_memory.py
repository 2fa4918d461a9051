"""The prefix cache of vLLM V1: what is found, what goes first, and what undoing restores."""

from __future__ import annotations

from typing import Any

import pytest
from harness import make_engine, request

from superinfer.draft import Draft
from superinfer.engine import Engine
from superinfer.memory.base import EagerCache
from superinfer.memory.blocks.pool import BlockPool, HostPool
from superinfer.memory.index.keys import Key, request_keys
from superinfer.memory.lru import LruMemory
from superinfer.memory.vllm_v1.cache import Block, BlockCache, Table
from superinfer.memory.vllm_v1.policy import VllmV1Memory
from superinfer.plan import Outcome
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.sequence import Sequence, State

BLOCK = 4


class Shelf:
    """A cache with one block per content id, used as the engine does."""

    def __init__(self) -> None:
        self.pool = BlockPool(1000)
        self.cache = BlockCache(self.pool, BLOCK)
        self.index = 0

    def take(self, *ids: int) -> tuple[Any, tuple[Key, ...], Table]:
        """A request for a prompt of these blocks and one token; it holds what is cached of it."""
        self.index += 1
        prompt = BLOCK * len(ids) + 1
        req = request(self.index, prompt, 0, hash_ids=(*ids, 999), hash_block_tokens=BLOCK)
        keys = request_keys(req)
        table, _ = self.cache.acquire(req, keys, len(ids))
        return req, keys, table

    def hold(self, *ids: int) -> Table:
        """The same with the rest computed."""
        req, keys, table = self.take(*ids)
        held = table.stop
        self.pool.referenced += len(ids) - held
        assert self.cache.insert(req, keys, table, len(ids)) == (table, len(ids) - held)
        return table

    def found(self, *ids: int) -> list[Block]:
        """The blocks that a prompt of these would get."""
        _, _, table = self.take(*ids)
        self.cache.unlock(table)
        return table.blocks

    def counts(self) -> tuple[int, int]:
        return self.pool.referenced, self.pool.cached

    def evict(self, blocks: int) -> list[tuple[Any, int]]:
        """Reclaim; returns the content id (None for a run) and the number of each."""
        taken = self.cache.reclaim(blocks)
        return [(b.key and b.key[0], n) for b, n in taken]  # type: ignore[index]


def test_requests_go_in_the_order_of_release_each_from_its_end() -> None:
    shelf = Shelf()
    one, other = shelf.hold(1, 2, 3), shelf.hold(7, 8)
    shelf.cache.release(other, 5.0)
    shelf.cache.release(one, 5.0)
    assert shelf.counts() == (0, 5)
    assert [key for key, _ in shelf.evict(5)] == [8, 7, 3, 2, 1]
    assert shelf.counts() == (0, 0) and list(shelf.cache.nodes()) == []


def test_a_shared_block_is_queued_when_its_last_holder_leaves() -> None:
    shelf = Shelf()
    one, other = shelf.hold(1, 2), shelf.hold(1, 3)
    assert one.blocks[0] is other.blocks[0] and one.blocks[0].refs == 2
    shelf.cache.release(one, 0.0)
    assert shelf.counts() == (2, 1)
    shelf.cache.release(other, 0.0)
    assert [key for key, _ in shelf.evict(3)] == [2, 3, 1]


def test_a_hit_moves_blocks_to_the_tail() -> None:
    shelf = Shelf()
    one, other = shelf.hold(1), shelf.hold(2)
    shelf.cache.release(one, 0.0)
    shelf.cache.release(other, 0.0)
    shelf.cache.release(shelf.hold(1), 0.0)
    assert [key for key, _ in shelf.evict(2)] == [2, 1]


def test_equal_blocks_are_kept_and_the_first_is_found() -> None:
    """Two requests without a hit compute the same block; each keeps its own."""
    shelf = Shelf()
    (req, keys, one), (req2, keys2, other) = shelf.take(1), shelf.take(1)
    shelf.pool.referenced += 2
    shelf.cache.insert(req, keys, one, 1)
    shelf.cache.insert(req2, keys2, other, 1)
    assert one.blocks[0] is not other.blocks[0]
    assert shelf.found(1) == one.blocks
    shelf.cache.release(one, 0.0)
    shelf.cache.release(other, 0.0)
    assert shelf.counts() == (0, 2)
    shelf.evict(1)
    assert shelf.found(1) == other.blocks


def test_the_answer_of_an_ended_request_is_one_entry() -> None:
    """It goes before the request's prompt, in parts if need be, and nobody can ask for it."""
    shelf = Shelf()
    table = shelf.hold(1)
    shelf.cache.add_answer(request(0, 5, 0), table, 3, 0.0)
    shelf.cache.release(table, 0.0)
    assert shelf.evict(2) == [(None, 2)]
    assert shelf.counts() == (0, 2)
    assert shelf.evict(2) == [(None, 1), (1, 1)]


def test_own_text_is_found_by_the_request_alone() -> None:
    shelf = Shelf()
    req, keys, table = shelf.take(1)
    shelf.pool.referenced += 1
    shelf.cache.insert(req, keys, table, 1)
    shelf.cache.add_own(req, table, 2)
    shelf.cache.release(table, 0.0)
    assert shelf.cache.match(req, keys, 9) == (3, 3)
    assert len(shelf.found(1)) == 1
    assert [key for key, _ in shelf.evict(1)] == [req.index]
    assert shelf.cache.match(req, keys, 9) == (2, 2)


def test_undoing_restores_places_and_order() -> None:
    """A hit, a release and a loss that are taken back leave the queue as it was."""
    shelf = Shelf()
    one, other, last = shelf.hold(1, 2), shelf.hold(3), shelf.hold(4)
    shelf.cache.release(one, 0.0)
    shelf.cache.release(other, 0.0)
    assert len(shelf.found(1, 2)) == 2  # locked and unlocked again
    req, _, _ = shelf.take(9)
    shelf.cache.add_own(req, last, 1)
    shelf.cache.release(last, 0.0)
    shelf.cache.relock(last)
    assert shelf.counts() == (1, 3)
    taken = shelf.cache.reclaim(2)
    assert shelf.found(1, 2) == []
    shelf.cache.restore(taken)
    assert shelf.found(1, 2) == one.blocks
    assert [key for key, _ in shelf.evict(3)] == [2, 1, 3]


def test_restoring_puts_an_equal_block_back_in_front() -> None:
    shelf = Shelf()
    (req, keys, one), (req2, keys2, other) = shelf.take(1), shelf.take(1)
    shelf.pool.referenced += 2
    shelf.cache.insert(req, keys, one, 1)
    shelf.cache.insert(req2, keys2, other, 1)
    shelf.cache.release(one, 0.0)
    taken = shelf.cache.reclaim(1)
    assert shelf.found(1) == other.blocks
    shelf.cache.restore(taken)
    assert shelf.found(1) == one.blocks


@pytest.mark.parametrize("hash_tokens", [4, 8, 16])
def test_keys_are_cut_at_the_block(hash_tokens: int) -> None:
    """Two prompts that share their first 16 tokens share four blocks, whatever an id covers."""
    shelf = Shelf()
    ids = 16 // hash_tokens
    table, hits = None, 0
    for index in range(2):
        names = (*range(ids), 100 + index)
        req = request(index, 17, 0, hash_ids=names, hash_block_tokens=hash_tokens)
        keys = request_keys(req)
        table, hits = shelf.cache.acquire(req, keys, 4)
        shelf.pool.referenced += 4 - hits
        shelf.cache.insert(req, keys, table, 4)
    assert hits == 4


def test_the_index_is_the_policys() -> None:
    pool = BlockPool(8)
    cache = VllmV1Memory().index(pool, HostPool(0), BLOCK)
    assert isinstance(cache, EagerCache)
    assert not isinstance(LruMemory().index(pool, HostPool(0), BLOCK), EagerCache)


# -- the draft with an eager index ----------------------------------------------------------------


def eager_engine(blocks: int) -> Engine:
    return make_engine(FcfsScheduler(), blocks, memory=VllmV1Memory(), prefix_caching=True)


def submit(engine: Engine, index: int, prompt: int, *ids: int) -> Sequence:
    return engine.submit(
        request(index, prompt, 0, hash_ids=ids, hash_block_tokens=BLOCK), float(index)
    )


def test_chunks_take_their_blocks_one_by_one() -> None:
    engine = eager_engine(8)
    seq, draft = submit(engine, 0, 20), Draft(engine, 0.0)
    assert draft.try_admit(seq, chunk_tokens=6)
    assert (seq.blocks, draft.available) == (2, 6)
    draft.prefill(seq, 6)
    seq.computed_tokens = 6
    assert draft.chunk_blocks(seq, 2) == 0 and draft.chunk_blocks(seq, 7) == 2
    mark = draft.mark()
    draft.prefill(seq, 7)
    assert (seq.blocks, draft.available) == (4, 4)
    draft.rollback(mark)
    assert (seq.blocks, draft.available) == (2, 6)


@pytest.mark.parametrize(("fit_all", "admitted"), [(True, False), (False, True)])
def test_all_must_fit_or_only_the_first_chunk(fit_all: bool, admitted: bool) -> None:
    engine = eager_engine(4)
    seq, draft = submit(engine, 0, 20), Draft(engine, 0.0)
    assert draft.try_admit(seq, chunk_tokens=6, fit_all=fit_all) is admitted
    assert draft.available == (2 if admitted else 4)


def test_a_scheduled_chunk_is_found_at_once_and_withdrawn_again() -> None:
    engine = eager_engine(8)
    one, other = submit(engine, 0, 12, 1, 2, 3), submit(engine, 1, 12, 1, 2, 4)
    draft = Draft(engine, 0.0)
    start = draft.mark()
    assert draft.try_admit(one)
    draft.prefill(one, 12)
    assert draft.try_admit(other)
    assert (other.shared_blocks, draft.available) == (2, 4)
    mark = draft.mark()
    assert draft.withdraw(one) == 12 and draft.chunks == []
    draft.rollback(mark)
    assert [chunk.sequence for chunk in draft.chunks] == [one]
    draft.rollback(start)
    assert list(engine.prefix.nodes()) == []  # type: ignore[union-attr]
    assert (one.state, one.node, draft.available) == (State.WAITING, None, 8)


def test_what_is_taken_costs_cached_blocks_before_the_next_look_up() -> None:
    """Two of the three blocks in the cache are in the way of the first request."""
    events: list[Any] = []
    engine = make_engine(
        FcfsScheduler(), 6, memory=VllmV1Memory(), prefix_caching=True, sink=events.append
    )
    first = submit(engine, 0, 13, 1, 2, 3, 4)
    plan = engine.plan(0.0)
    assert plan is not None
    engine.complete(plan, Outcome(1.0, [1.0], [first]))
    assert (engine.pool.referenced, engine.pool.cached) == (0, 3)
    long, same = submit(engine, 1, 17, *range(10, 15)), submit(engine, 2, 5, 1, 5)
    draft = Draft(engine, 2.0)
    assert draft.try_admit(long)
    mark = draft.mark()
    assert not draft.try_admit(same, keep_free=1)
    assert engine.pool.cached == 1
    draft.rollback(mark)
    assert engine.pool.cached == 3
    draft.settle(long, 1)
    assert engine.pool.cached == 0
    draft.rollback()
    assert (engine.pool.referenced, engine.pool.cached) == (0, 3)
    assert not any(event[1] == "evict" for event in events)


def test_null_blocks_are_not_in_the_pool() -> None:
    scheduler = FcfsScheduler()
    assert make_engine(scheduler, 10).pool.total == 10

    class Padded(FcfsScheduler):
        null_blocks = 1

    padded = make_engine(Padded(), 10)
    assert (padded.pool.total, padded.config.total_blocks) == (9, 10)
