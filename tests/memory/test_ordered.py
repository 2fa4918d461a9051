"""Eviction orders of the cache study as memory policies of the engine."""

from __future__ import annotations

from typing import Any

import pytest
from harness import BLOCK, make_engine
from hypothesis import given
from property.exact_runs import BLOCKS, FAKE
from property.invariants import Watch, assert_all_free, assert_each_ends_once
from property.workloads import JOBS, SETTINGS, Job, prompts
from shelves import block_prompt

from sim.driver import simulate
from sim.oracle import Oracle
from superinfer.errors import ConfigError
from superinfer.lab.config.policies import build_policy
from superinfer.memory import MEMORY_POLICIES
from superinfer.memory.index.node import Node
from superinfer.memory.orders import ORDERS, Surroundings, build_order
from superinfer.memory.orders.base import REMEMBERED, last_entry
from superinfer.memory.orders.remembered import Remembered
from superinfer.request import Request
from superinfer.schedulers.fcfs import FcfsScheduler

NAMES = [name for name, path in MEMORY_POLICIES.items() if "memory.ordered:" in path]


def test_every_order_has_a_policy_but_one_that_needs_the_future() -> None:
    assert set(ORDERS) - set(MEMORY_POLICIES) == {"belady"}
    assert set(NAMES) == set(ORDERS) - {"belady", "lru", "slo_aware"}
    assert [build_policy("memory", name, {}).name for name in NAMES] == NAMES
    with pytest.raises(ConfigError, match="memory 'belady': unknown"):
        build_policy("memory", "belady", {})


def test_victims_are_swapped_as_configured() -> None:
    policy = build_policy("memory", "gdsf", {"preemption": "swap", "swap_in_timing": "background"})
    assert (policy.preemption, policy.swap_in_timing) == ("swap", "background")
    with pytest.raises(ConfigError, match=r"memory\.host_ratio: unknown"):
        build_policy("memory", "gdsf", {"host_ratio": 1})


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("lru", 1), ("fifo", 1), ("tail_lru", 1), ("lfu", 2), ("gdsf", 2), ("two_level", 2)],
)
def test_the_order_decides_what_is_found(name: str, blocks: int) -> None:
    """Seven blocks. (1, 2) is used twice, then (3, 4) once; three blocks and their answer's take
    one of these four. By age or order of arrival it is 2, by uses 4: then (1, 2) is whole.
    """
    asked = [(1, 2), (1, 2), (3, 4), (5, 6, 7), (1, 2)]
    requests = [block_prompt(i, *ids, arrival_s=10.0 * i) for i, ids in enumerate(asked)]
    memory = build_policy("memory", name, {})
    engine = make_engine(FcfsScheduler(), 7, memory=memory, prefix_caching=True)
    simulate(engine, requests, Oracle([1] * len(requests)))
    assert engine.recorder.prefix_hit_tokens == BLOCK * (2 + blocks)


@pytest.mark.interpreted  # `Engine.plan` is replaced
@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("name", NAMES)
@SETTINGS
@given(jobs=JOBS)
def test_invariants_hold_under_every_order(name: str, lag: int, jobs: list[Job]) -> None:
    events: list[Any] = []
    scheduler = FcfsScheduler(max_num_batched_tokens=16, max_num_seqs=8)
    machine = {"cost": FAKE, "host_blocks": 400, "lag": lag, "prefix_caching": True}
    memory = build_policy("memory", name, {})
    engine = make_engine(scheduler, BLOCKS, memory=memory, sink=events.append, **machine)
    watch = Watch(engine)
    simulate(engine, prompts(jobs), Oracle([job.output for job in jobs]))
    assert watch.checks > 0
    assert_each_ends_once(events, jobs)
    assert_all_free(engine)


def prompt(index: int, *ids: int) -> Request:
    return Request(str(index), 0.0, BLOCK * len(ids), 1, hash_ids=ids, hash_block_tokens=BLOCK)


def edge(request: Request, start: int, stop: int) -> Node:
    return Node(None, request.hash_ids[start:stop], start, stop, BLOCK)


@pytest.mark.parametrize(("name", "first", "second"), [("lfu", 1, 2), ("two_level", 0, 1)])
def test_a_use_counts_once_though_chunks_alternate(name: str, first: int, second: int) -> None:
    order = build_order(name, Surroundings(100, BLOCK))
    one, other = prompt(0, 1, 2), prompt(1, 3, 4)
    chunks = [edge(one, 0, 1), edge(other, 0, 1), edge(one, 1, 2), edge(other, 1, 2)]
    for chunk, request in zip(chunks, (one, other) * 2, strict=True):
        order.retain(chunk, request)
    assert [last_entry(chunk, BLOCK) for chunk in chunks] == [first] * 4
    order.retain(chunks[0], prompt(2, 1, 2))
    assert [last_entry(chunk, BLOCK) for chunk in chunks[:2]] == [second, first]


def test_only_so_many_requests_are_remembered() -> None:
    order: Any = build_order("lfu", Surroundings(100, BLOCK))
    for index in range(3 * REMEMBERED):
        request = prompt(index, index)
        order.retain(edge(request, 0, 1), request)
    assert REMEMBERED <= len(order._uses) <= 2 * REMEMBERED


@pytest.mark.parametrize(("name", "memory"), [("lfu", "_counts"), ("two_level", "_seen")])
def test_only_so_many_content_ids_are_remembered(
    monkeypatch: pytest.MonkeyPatch, name: str, memory: str
) -> None:
    """Those that are used now and then stay."""
    monkeypatch.setattr(f"superinfer.memory.orders.{name}.NAMES", 8)
    order: Any = build_order(name, Surroundings(100, BLOCK))
    for index in range(100):
        assert order.entries(prompt(index, 1, 1000 + index))[0] == (
            index + 1 if name == "lfu" else min(index, 1)
        )
    assert 8 <= len(getattr(order, memory)) <= 16
    (again,) = order.entries(prompt(100, 1000))
    assert again == (1 if name == "lfu" else 0), "forgotten, and so new"


def test_a_memory_forgets_its_older_half() -> None:
    memory: Remembered[str] = Remembered(2)
    for name in "abb":
        memory.put(name, name.upper())
    assert [memory.get(name) for name in "abc"] == ["A", "B", None]
    memory.put("c", "C")
    memory.put("a", "A2")
    assert len(memory) == 3
    memory.put("d", "D")
    assert [memory.get(name) for name in "abcd"] == ["A2", None, "C", "D"]


def test_text_behind_a_prompt_counts_as_the_end_of_it() -> None:
    """A driver that knows what is said makes it findable, too."""
    order = build_order("lfu", Surroundings(100, BLOCK))
    request = prompt(0, 1, 2)
    order.retain(edge(request, 0, 1), prompt(1, 1))
    text = Node(None, (2, 8, 9), 1, 4, BLOCK)
    order.retain(text, request)
    assert last_entry(text, BLOCK) == 1
    nothing = Node(None, (8,), 0, 1, BLOCK)
    order.retain(nothing, prompt(2))
    assert last_entry(nothing, BLOCK) == 0
