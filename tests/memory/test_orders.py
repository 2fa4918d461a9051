"""Eviction orders on tiny traces that were worked by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from superinfer.errors import ConfigError
from superinfer.memory.blocks.pool import BlockPool
from superinfer.memory.index.keys import request_keys
from superinfer.memory.index.prefix import PrefixIndex
from superinfer.memory.orders import ORDERS, EvictionOrder, Surroundings, build_order
from superinfer.memory.orders.category import Category, CategoryAppraiser
from superinfer.memory.orders.guard import Guard
from superinfer.memory.orders.valued import ValuedOrder
from superinfer.memory.orders.worth import Appraisal
from superinfer.memory.replay import CacheReplay
from superinfer.memory.reuse.features import Visit
from superinfer.memory.reuse.history import History
from superinfer.request import Request

BLOCK = 512
Prompts = Sequence[tuple[int, ...]]


def requests(prompts: Prompts, every_s: float = 1.0) -> list[Request]:
    """One request per second; all blocks are full."""
    return [
        Request(str(i), every_s * i, BLOCK * len(ids), 1, hash_ids=ids, index=i)
        for i, ids in enumerate(prompts)
    ]


def hits(order: str, capacity: int, prompts: Prompts) -> list[int]:
    asked = requests(prompts)
    return replay(build_order(order, Surroundings(capacity, BLOCK, asked)), capacity, asked)


def replay(order: EvictionOrder, capacity: int, asked: Sequence[Request]) -> list[int]:
    return CacheReplay(capacity, BLOCK, order).hits(asked)


def singles(*ids: int) -> Prompts:
    """Prompts of one block."""
    return [(block,) for block in ids]


def test_lru_forgets_what_was_used_longest_ago() -> None:
    # The last but one evicts 4 and 3, so the last finds nothing.
    assert hits("lru", 4, [(1, 2), (3, 4), (1, 2), (5, 6), (3, 4)]) == [0, 0, 2, 0, 0]


def test_fifo_forgets_what_came_first() -> None:
    # The last but one evicts 2 and 1, though they were just used.
    assert hits("fifo", 4, [(1, 2), (3, 4), (1, 2), (5, 6), (3, 4)]) == [0, 0, 2, 0, 2]


def test_the_tail_goes_first() -> None:
    # 5 takes the place of 3, and the beginning (1, 2) can still be used.
    assert hits("lru", 4, [(1, 2, 3), (4,), (5,), (1, 2, 3)]) == [0, 0, 0, 2]


def test_a_prompt_larger_than_the_cache_keeps_its_beginning() -> None:
    assert hits("lru", 3, [(1, 2, 3, 4, 5), (1, 2, 3, 4, 5)]) == [0, 3]


def test_a_beginning_outlives_what_continues_it() -> None:
    # (1, 4) goes before 1 itself, which 5 and 6 then leave alone: the order of last use is 2, 4, 1.
    assert hits("lru", 4, [(1, 2), (1, 4), (5,), (6,), (1, 4)]) == [0, 1, 0, 0, 2]


def test_lfu_keeps_what_was_used_often() -> None:
    prompts = [(1, 2), (1, 2), (3, 4), (5, 6), (1, 2)]
    assert hits("lfu", 4, prompts) == [0, 2, 0, 0, 2]
    assert hits("lru", 4, prompts) == [0, 2, 0, 0, 0]


def test_lfu_remembers_the_uses_of_what_went() -> None:
    # 1 goes for 2 and 3; back again it has two uses, and now 3 and 4 go instead.
    assert hits("lfu", 2, singles(1, 2, 3, 1, 4, 1)) == [0, 0, 0, 0, 0, 1]


def test_belady_evicts_the_farthest_next_use() -> None:
    assert hits("belady", 2, singles(1, 2, 3, 1, 2)) == [0, 0, 0, 1, 1]
    assert hits("lru", 2, singles(1, 2, 3, 1, 2)) == [0, 0, 0, 0, 0]


def test_belady_looks_at_each_block_of_an_edge() -> None:
    # Of (1, 2, 3) only 1 and 2 are used again, and of (4, 5) only 4.
    prompts = [(1, 2, 3), (4, 5), (1, 2), (4,)]
    assert hits("belady", 3, prompts) == [0, 0, 2, 1]


def test_two_level_takes_what_was_used_once() -> None:
    assert hits("two_level", 2, singles(1, 1, 2, 3, 1)) == [0, 1, 0, 0, 1]
    assert hits("lru", 2, singles(1, 1, 2, 3, 1)) == [0, 1, 0, 0, 0]


def test_gdsf_ages_by_inflation() -> None:
    # 1 has priority 2. 2 goes for 3 at priority 1, 3 for 4 (1 + 1 = 2); then 1 is the oldest of 2.
    assert hits("gdsf", 2, singles(1, 1, 2, 3, 1)) == [0, 1, 0, 0, 1]
    assert hits("gdsf", 2, singles(1, 1, 2, 3, 4, 5, 1)) == [0, 1, 0, 0, 0, 0, 0]
    assert hits("lfu", 2, singles(1, 1, 2, 3, 4, 5, 1)) == [0, 1, 0, 0, 0, 0, 1]


def test_lfu_takes_the_end_of_a_leaf_that_was_used_less_than_its_beginning() -> None:
    """7 and 8 push 1 out, whose uses are remembered. It comes back with 2, which goes alone."""
    prompts = [*singles(1, 1, 7, 7, 7, 8, 8), (1, 2), (1,)]
    assert hits("lfu", 2, prompts) == [0, 1, 0, 1, 1, 0, 0, 0, 1]


def test_s3fifo_promotes_and_remembers() -> None:
    # 11 finds the cache full: 1 moves to the main queue (two uses), 2 goes and is remembered, so
    # that it comes back into the main queue; 3 goes for it, 4 for 12.
    prompts = singles(1, 1, 1, *range(2, 11), 11, 1, 2, 12, 2, 3)
    assert hits("s3fifo", 10, prompts) == [0, 1, 1, *[0] * 9, 0, 1, 0, 0, 1, 0]


def test_s3fifo_gives_another_round_for_a_use() -> None:
    # Capacity 2: everything beyond the small queue's 0.2 blocks is taken from there. 1 is promoted
    # when 2 and 3 come; 2 goes, and then 3 for 4, while 1 stays.
    assert hits("s3fifo", 2, singles(1, 1, 1, 2, 3, 4, 1)) == [0, 1, 1, 0, 0, 0, 1]


def test_tail_lru_takes_spare_tails_first() -> None:
    # Four blocks of each prompt are spare: 6, 5, 4, 3 go, then 16 and not 2.
    prompts = [tuple(range(1, 7)), tuple(range(11, 17)), *singles(21, 22, 23, 24, 25), (1, 2, 3)]
    assert hits("tail_lru", 12, prompts)[-1] == 2
    assert hits("lru", 12, prompts)[-1] == 1


def test_category_probability() -> None:
    category = Category(visits=100, reused=50, waited_s=500)  # half of it, after 10 s on average
    # From age 0 to 10 s: 0.5 (1 - 1/e); later the same of what is left: 0.5 / e of 0.5 + 0.5 / e.
    assert category.used_within(0.0, 10.0) == pytest.approx(0.5 * 0.63212, rel=1e-4)
    assert category.used_within(10.0, 10.0) == pytest.approx(0.26894 * 0.63212, rel=1e-4)


def test_category_counts_by_turn() -> None:
    appraiser, history = CategoryAppraiser(), History()
    turns = [(1, 2), (1, 2, 3), (1, 2, 3, 4)]
    for request in requests(turns, every_s=10.0):
        appraiser.appraise([history.visit(request, request.arrival_s)])
    first, second, third = appraiser._categories[1:4]
    # The prior is 4 visits with one use after 60 s; then two blocks are used again after turn one,
    # and three after turn two, each after 10 s.
    assert (first.visits, first.reused, first.waited_s) == (4 + 2, 1 + 2, 60 + 20)
    assert (second.visits, second.reused, second.waited_s) == (4 + 3, 1 + 3, 60 + 30)
    assert (third.visits, third.reused) == (4 + 4, 1)


def test_category_exponential_keeps_conversations() -> None:
    # Whoever came twice comes again, whoever came once does not.
    prompts: list[tuple[int, ...]] = []
    for turn in range(30):
        prompts += [(1, 2, 3), *singles(*range(100 + 6 * turn, 106 + 6 * turn))]
    prompts += [(1, 2, 3)]
    assert hits("category_exponential", 6, prompts)[-1] == 3
    assert hits("lru", 6, prompts)[-1] == 0


class ByTurn:
    """Values by the position of the request, before and after an age of 10 s."""

    edges_s = (10.0, 100.0)

    def __init__(self, *rows: list[float]) -> None:
        self.rows = rows
        self.turn = -1

    def appraise(self, visits: Sequence[Visit]) -> list[Appraisal]:
        return [Appraisal(rows, rows) for rows in map(self.of, visits)]

    def of(self, visit: Visit) -> list[list[float]]:
        self.turn += 1
        return [[*self.rows[min(self.turn, len(self.rows) - 1)], 0.0]] * len(visit.starts)


class EndsWorthless(ByTurn):
    """What begins a prompt is worth 9 if it has two blocks, all else nothing."""

    def of(self, visit: Visit) -> list[list[float]]:
        return [[9.0, 9.0, 0.0] if stop == 2 else [0.0] * 3 for stop in visit.stops]


def test_the_lowest_value_goes() -> None:
    # The third prompt is worth least and goes itself.
    order = ValuedOrder(Surroundings(2, BLOCK), ByTurn([5.0, 5.0], [2.0, 2.0], [0.5, 0.5]))
    assert replay(order, 2, requests(singles(1, 2, 3, 1, 2))) == [0, 0, 0, 1, 1]


def test_what_values_find_is_told_to_the_guard_in_content_ids() -> None:
    """Each of two blocks. All that comes again is found, by value as by age: nobody is ahead."""
    near = Surroundings(100, BLOCK)
    guard = Guard(near)
    guard.plain = False
    order = ValuedOrder(near, ByTurn([5.0, 5.0]), guard)
    pool = BlockPool(100)
    index = PrefixIndex(pool, BLOCK, order)
    for at, ids in enumerate([(1, 2), (1, 2), (1, 3), (1, 3), (4, 5)]):
        req = Request(str(at), at, 4 * BLOCK, 1, hash_ids=ids, hash_block_tokens=2 * BLOCK)
        keys = request_keys(req)
        node, cached = index.acquire(req, keys, 4)
        if node is not None:
            index.hit(req, node)
        pool.referenced += 4 - cached
        node, _ = index.insert(req, keys, node, 4)
        assert node is not None
        index.release(node, float(at))
    assert guard.shadow_rate == pytest.approx(5 / 8, rel=0.01) and guard._lead == 0.0


@pytest.mark.parametrize(("every_s", "last"), [(4.0, (1, 0)), (10.0, (0, 1))])
def test_a_value_changes_with_age(every_s: float, last: tuple[int, int]) -> None:
    # 1 is worth 5 until it is 10 s old, then 1; 2 is worth 2. When 3 comes after 20 s it is 1 that
    # goes, and 2 when it comes after 8 s. What is asked for next shows which one it was.
    for again, hit in zip((1, 2), last, strict=True):
        order = ValuedOrder(Surroundings(2, BLOCK), ByTurn([5.0, 1.0], [2.0, 2.0], [7.0, 7.0]))
        asked = requests(singles(1, 2, 3), every_s)
        asked += [Request("3", 2 * every_s + 0.5, BLOCK, 1, hash_ids=(again,), index=3)]
        assert replay(order, 2, asked) == [0, 0, 0, hit]


def test_only_the_worthless_end_of_a_prompt_goes() -> None:
    # The second prompt shares (1, 2), which are worth 9 then. Of the others, worth nothing, the
    # deepest go: 5 and 4, and after the third prompt 6.
    order = ValuedOrder(Surroundings(3, BLOCK), EndsWorthless())
    asked = requests([(1, 2, 3), (1, 2, 4, 5), (1, 2, 3, 6), (1, 2, 4)])
    assert replay(order, 3, asked) == [0, 2, 3, 2]


@pytest.mark.parametrize("name", sorted(ORDERS))
def test_every_order_holds_the_capacity_and_a_set_of_prefixes(name: str) -> None:
    prompts = [
        (seed % 5, 10 + seed % 7, 100 + seed % 11, 1000 + seed)[: 2 + seed % 3]
        for seed in range(90)
    ]
    asked = requests(prompts)
    cache = CacheReplay(12, BLOCK, build_order(name, Surroundings(12, BLOCK, asked)))
    for request in asked:
        assert 0 <= cache.serve(request) <= len(request.hash_ids)
        held = sum(node.blocks for node in cache._index.nodes())
        assert held == cache._pool.cached <= 12
        assert all(node.parent is not None for node in cache._index.nodes())


@pytest.mark.parametrize("name", sorted(ORDERS))
@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_prompts_longer_than_the_capacity(name: str, capacity: int) -> None:
    """No order runs out of leaves, whatever was used again and however little there is."""
    prompts = [(1,), (1,), (1,), (2, 3, 4, 5, 6, 7, 8), (2, 3), (2, 3), (1, 9), (20, 21, 22)] * 5
    assert len(hits(name, capacity, prompts)) == len(prompts)


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected some of lru, lfu"):
        build_order("newest", Surroundings(1, BLOCK))
