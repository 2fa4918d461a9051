"""The queue of leaves whose values change, against one that sorts all of them every time."""

from __future__ import annotations

import random
from itertools import product

import pytest

from superinfer.heaps import FEWEST
from superinfer.memory.index.node import Node
from superinfer.memory.orders.agenda import Agenda
from superinfer.memory.orders.pins import Pins
from superinfer.memory.orders.queue import Entry, ValueQueue
from superinfer.memory.orders.valued import DeviceQueue
from superinfer.memory.orders.worth import Appraisal, Standing, Worth, equal_prices
from superinfer.memory.reuse.features import Visit
from superinfer.request import Request

BLOCK = 16
EDGES_S = (1.0, 2.5, 6.0)


def leaf(parent: Node, key: int, blocks: int, values: list[float], used_s: float) -> Node:
    """A prompt of its own, below a root."""
    node = Node(parent, (key,), 0, blocks, BLOCK * blocks)
    asked = Request(str(key), used_s, BLOCK * blocks, 1, hash_ids=(key,), index=key)
    visit = Visit(used_s, 0)
    visit.add(0, 1, 1.0)
    worth = Worth(asked, used_s, visit)
    worth.appraisal = Appraisal([[*values, 0.0]], [])
    node.note, node.last_access_s = worth, used_s
    parent.children[key] = node
    return node


def rank(node: Node, now: float) -> tuple[float, int, float]:
    """Its value now, the depth, and when it was used, which is never the same."""
    worth: Worth = node.note
    edge = sum(worth.used_s + end_s <= now for end_s in EDGES_S)
    return worth.values(0)[edge], -node.stop, -worth.used_s


def test_entries_go_by_rank_then_depth_then_use_then_turn() -> None:
    places = list(product((0.0, 1.0), (1, 2), (-2.0, 0.0), (-2, -1)))
    root, entries = Node(None, (), 0, 0, BLOCK), list[Entry]()
    for rank_, depth, of_equals, turn in reversed(places):
        node = leaf(root, 0, depth, [1.0], 0.0)
        entries.append(Entry(rank_, of_equals, turn, Standing(node, node.note, [], 1.0)))
    found = [(each.rank, -each.depth, each.of_equals, each.turn) for each in sorted(entries)]
    assert len(found) == 16 and found == sorted(found)


def device_queue() -> ValueQueue:
    return DeviceQueue(EDGES_S, BLOCK, equal_prices, None)


@pytest.mark.parametrize("seed", range(8))
def test_goes_as_if_all_were_sorted_every_time(seed: int) -> None:
    """Few different values and depths, which rise and fall; times below 0 and leaps in time."""
    rng = random.Random(seed)
    root = Node(None, (), 0, 0, BLOCK)
    queue, waiting, now = device_queue(), set[Node](), -20.0
    for key in range(600):
        now += rng.choice((0.0, 0.1, 0.3, 0.7, 4.0))
        values = [float(rng.randrange(1, 8)) for _ in EDGES_S]
        used_s = now - rng.choice((0.0, 0.5, 2.0)) - 1e-6 * rng.random()
        node = leaf(root, key, rng.choice((1, 2)), values, used_s)
        queue.push(node, now)
        waiting.add(node)
        if rng.random() < 0.6:
            found = queue.pop(99, now)
            assert found is not None and found[0] in waiting
            expected = min(rank(each, now) for each in waiting)
            told = 3 if expected[0] else 2  # of what is worth nothing, any of the deepest
            assert rank(found[0], now)[:told] == expected[:told]
            waiting.remove(found[0])
            found[0].refs = 1  # in use from now on
    assert len(waiting) > 100


def test_a_leaf_far_from_going_is_not_touched_at_every_edge() -> None:
    """Its least value to come is more than what goes, so it is queued by that, until it ages."""
    root, queue = Node(None, (), 0, 0, BLOCK), device_queue()
    low, high = leaf(root, 0, 1, [1.0] * 3, 0.0), leaf(root, 1, 1, [9.0, 8.0, 7.0], 0.0)
    queue.push(low, 0.0)
    assert queue.lowest(0.0) == 1.0
    queue.push(high, 0.0)
    assert [entry.rank for entry in queue._leaves if entry.standing.node is high] == [7.0]
    low.refs = 1
    for now, value in ((0.5, 9.0), (1.0, 8.0), (2.4, 8.0), (2.5, 7.0), (6.0, 0.0)):
        assert queue.lowest(now) == queue.value(high, now) == value


def test_entries_that_count_no_longer_do_not_pile_up() -> None:
    """No leaf is asked for. Each is queued in four bins, then it is gone: ten waves of them."""
    root, queue = Node(None, (), 0, 0, BLOCK), device_queue()
    for wave in range(10):
        start_s = 20.0 * wave
        nodes = [leaf(root, key, 1, [9.0, 8.0, 7.0], start_s) for key in range(FEWEST)]
        for node in nodes:
            queue.push(node, start_s)
        for age_s in EDGES_S:
            queue.follow(start_s + age_s)
        for node in nodes:
            node.parent = None
    assert len(queue._leaves) <= 4 * FEWEST


@pytest.mark.parametrize("plain", [False, True])
def test_entries_of_a_leaf_that_is_used_all_the_time_do_not_pile_up(plain: bool) -> None:
    """Nobody asks for a leaf, and its value has no time to change."""
    root, queue = Node(None, (), 0, 0, BLOCK), device_queue()
    queue.plain = plain
    other = leaf(root, 0, 1, [9.0, 8.0, 7.0], 0.0)
    queue.push(other, 0.0)
    node = leaf(root, 1, 1, [9.0, 8.0, 7.0], 0.0)
    for turn in range(5 * FEWEST):
        now = 1e-4 * turn
        again = leaf(root, 2, 1, [1.0, 1.0, 1.0], now)
        node.note, node.last_access_s = again.note, now
        queue.push(node, now)
    assert len(queue._leaves) <= FEWEST + 1
    first = queue.pop(1, 0.9)
    assert first is not None and first[0] is (other if plain else node)


def test_ended_pins_do_not_pile_up() -> None:
    """The best ones would come to the top last."""
    root, pins = Node(None, (), 0, 0, BLOCK), Pins(50, 1.0)
    for key in range(3 * FEWEST):
        node = leaf(root, key, 1, [1.0] * 3, float(key))
        assert pins.offer(node, 1e6 + key, float(key)) == (True, [])
        pins.lapsed(key + 0.5)
        pins.drop(node)
    assert len(pins._order) <= FEWEST + 1


def standing(parent: Node, lasts_s: float, turn: int) -> Standing:
    node = leaf(parent, turn, 1, [1.0] * 3, 0.0)
    found = Standing(node, node.note, [], 1.0)
    found.lasts_s, found.turn = lasts_s, turn
    return found


def test_an_agenda_forgets_nodes_that_are_gone() -> None:
    """And those that others stand for, of seconds to come and of the one that has begun."""
    root, agenda = Node(None, (), 0, 0, BLOCK), Agenda()
    agenda.take(-1.0)
    for turn in range(4 * FEWEST):
        gone = standing(root, float(turn % 7), -turn)
        agenda.add(gone)
        if turn % 2:
            gone.node.parent = None
        else:
            gone.replaced = True
        if turn == FEWEST:
            agenda.take(3.0)
    stays = standing(root, 5.0, -5 * FEWEST)
    agenda.add(stays)
    assert sum(map(len, agenda._seconds.values())) + len(agenda._heap) <= FEWEST + 1
    assert [each for each in agenda.take(6.0) if not each.replaced and each.node.parent] == [stays]
    assert not agenda.due(100.0)


@pytest.mark.parametrize("seed", range(5))
def test_an_agenda_is_sorted_by_time_and_turn(seed: int) -> None:
    rng, root = random.Random(seed), Node(None, (), 0, 0, BLOCK)
    agenda, waiting, now = Agenda(), list[Standing](), -3.0
    for turn in range(500):
        each = standing(root, now + rng.choice((0.0, 0.2, 0.25, 1.0, 3.5)), -turn)
        agenda.add(each)
        waiting.append(each)
        if rng.random() < 0.3:
            now += rng.choice((0.0, 0.1, 0.25, 2.0))
            due = sorted((each.lasts_s, each.turn) for each in waiting if each.lasts_s <= now)
            assert [(each.lasts_s, each.turn) for each in agenda.take(now)] == due
            waiting = [each for each in waiting if each.lasts_s > now]
    assert waiting
