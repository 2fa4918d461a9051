"""The `retention` policy: priorities, leaves, and what goes to the host and comes back."""

from __future__ import annotations

from typing import Any

import pytest
from harness import BlockingDriver, FakeCost, make_engine
from shelves import block_prompt, reclaimed

from superinfer.engine import Engine
from superinfer.errors import ConfigError
from superinfer.heaps import FEWEST
from superinfer.memory.blocks.pool import BlockPool, HostPool
from superinfer.memory.index.keys import request_keys
from superinfer.memory.index.node import Node
from superinfer.memory.index.prefix import PrefixIndex
from superinfer.memory.index.tiered import TieredIndex
from superinfer.memory.retention import RetentionMemory
from superinfer.plan import Plan
from superinfer.request import Request, SLOClass
from superinfer.schedulers.tensorrt_llm import TensorRtLlmScheduler

BLOCK = 4
PRIORITIES = {"low": 10, "high": 80, "least": 0}
GIB = 2**30


def prompt(index: int, cls: str, *ids: int, arrival_s: float = 0.0) -> Request:
    return block_prompt(index, *ids, arrival_s=arrival_s, slo_class=SLOClass(cls), max_tokens=1)


class Shelf:
    """An index filled path by path, with or without a host tier."""

    def __init__(self, host_blocks: int = 0, **memory: Any) -> None:
        self.pool, self.host = BlockPool(100), HostPool(0, host_blocks)
        policy = RetentionMemory(PRIORITIES, {"low": 90}, **memory)
        self.index = (
            TieredIndex(self.pool, self.host, BLOCK, policy, policy)
            if host_blocks
            else PrefixIndex(self.pool, BLOCK, policy)
        )
        self.names: dict[Node, str] = {}

    def put(self, cls: str, now: float, *ids: int, answer: int = 0) -> None:
        """A request of a class uses a prompt until `now`, and ends with blocks of an answer."""
        req = prompt(int(now), cls, *ids)
        keys = request_keys(req)
        node, held = self.index.acquire(req, keys, self.index.match(req, keys, len(ids))[0])
        if node is not None:
            self.index.hit(req, node)
        self.pool.referenced += len(ids) - held
        node, _ = self.index.insert(req, keys, node, len(ids))
        assert node is not None
        if answer:
            leaf = self.index.add_answer(req, node, answer, now)
            self.names[leaf] = f"{cls} answer"
        self.index.release(node, now)
        self.names.setdefault(node, cls)

    def reclaim(self, blocks: int) -> list[tuple[str, int]]:
        return reclaimed(self.index, self.names, blocks)


def test_lowest_priority_first_then_oldest() -> None:
    """`other` has the default of 35; it is the newest and goes second."""
    shelf = Shelf()
    shelf.put("high", 1.0, 1, 2)
    shelf.put("other", 4.0, 3, 4)
    shelf.put("low", 2.0, 5, 6)
    shelf.put("low", 3.0, 7, 8)
    assert shelf.reclaim(8) == [("low", 4), ("other", 2), ("high", 2)]


def test_oldest_first_within_a_priority() -> None:
    shelf = Shelf()
    shelf.put("other", 2.0, 1, 2)
    shelf.put("another", 1.0, 3, 4)
    assert shelf.reclaim(3) == [("another", 2), ("other", 1)]


def test_uses_of_what_ranks_high_leave_no_entries() -> None:
    """One prompt of high priority is used again and again while others come and go, and one of them
    is always left.
    """
    shelf = Shelf()
    shelf.put("low", 0.0, 99)
    for now in range(3 * FEWEST):
        shelf.put("high", float(now), 1, 2)
        shelf.put("low", float(now), 100 + now)
        assert shelf.reclaim(1) == [("low", 1)]
    policy = shelf.index.policy
    assert isinstance(policy, RetentionMemory) and len(policy._device._heap) <= FEWEST + 1
    assert shelf.reclaim(3) == [("low", 1), ("high", 2)]


def test_only_leaves_go() -> None:
    """The stem has the lowest priority of all, and stays as long as its branches do."""
    shelf = Shelf()
    shelf.put("least", 1.0, 1, 2)
    shelf.put("high", 2.0, 3)
    stem = next(node for node in shelf.index.nodes() if node.stop == 2)
    branch = Node(stem, (9,), 2, 4, BLOCK)  # a branch that a request without priority left
    stem.children[9], stem.device_children = branch, 1
    shelf.pool.cached += 2
    shelf.index.policy.unused(branch)
    shelf.names[branch] = "branch"
    assert shelf.reclaim(4) == [("branch", 2), ("least", 2)]
    assert shelf.reclaim(1) == [("high", 1)]


def test_a_new_priority_overrides_and_none_leaves_it() -> None:
    """A request of high priority reuses the first block; the plain one after it changes nothing."""
    shelf = Shelf()
    shelf.put("low", 1.0, 1, 2)
    shelf.put("high", 2.0, 1)
    shelf.put("other", 3.0, 1)
    shelf.put("other", 4.0, 5)
    stop = {node.stop: node.priority for node in shelf.index.nodes() if node.keys != (5,)}
    assert stop == {1: 80, 2: 10}
    assert [count for _, count in shelf.reclaim(3)] == [1, 1, 1]
    assert [node.keys for node in shelf.index.nodes()] == []


def test_generated_text_has_a_priority_of_its_own() -> None:
    shelf = Shelf()
    shelf.put("low", 1.0, 1, answer=2)
    shelf.put("other", 2.0, 3)
    # The answer (90) holds its prompt (10), since only leaves go.
    assert shelf.reclaim(4) == [("other", 1), ("low answer", 2), ("low", 1)]


def test_the_host_has_as_many_blocks_as_fit_into_its_memory() -> None:
    memory = RetentionMemory({"high": 100, "low": 0}, host_cache_gib=0.5)
    core = make_engine(
        TensorRtLlmScheduler(), 10, memory=memory, prefix_caching=True, block_bytes=3 * 2**20
    )
    assert core.host.cache_total == 170


@pytest.mark.parametrize(("threshold", "kept"), [(30, 3), (35, 3), (36, 1), (81, 0)])
def test_the_threshold_of_the_host(threshold: int, kept: int) -> None:
    """`other` is 35, `high` 80, `low` 10: an evicted block needs the threshold or more."""
    shelf = Shelf(host_blocks=9, offload_min_priority=threshold)
    shelf.put("low", 1.0, 1)
    shelf.put("other", 2.0, 2, 3)
    shelf.put("high", 3.0, 4)
    shelf.reclaim(4)
    assert shelf.host.cached == kept


def test_the_host_gives_up_the_lowest_priority() -> None:
    """Three blocks on the host, two taken: of `low`'s two the second drives out the first, and then
    `other`'s two drive out that one and, by and by, each other.
    """
    shelf = Shelf(host_blocks=3, offload_min_priority=0)
    for now, cls in ((1.0, "high"), (2.0, "low"), (3.0, "other")):
        shelf.put(cls, now, int(now) * 10, int(now) * 10 + 1)
        shelf.reclaim(2)
    kept = {node.priority: node.blocks for node in shelf.index.nodes()}
    assert kept == {80: 2, None: 1}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"priorities": {"chat": 101}}, "memory.priorities.chat: expected from 0 to 100, got 101"),
        ({"answer_priorities": {"chat": -1}}, "memory.answer_priorities.chat: .* got -1"),
        ({"offload_min_priority": 200}, "memory.offload_min_priority: .* got 200"),
    ],
)
def test_priorities_outside_the_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RetentionMemory(**settings)


# -- with the scheduler ---------------------------------------------------------------------------


def plans(memory: RetentionMemory, requests: list[Request], blocks: int) -> list[Any]:
    """When, chunk tokens, and copies as (direction, blocks)."""
    found: list[Any] = []

    def note(_: Engine, plan: Plan) -> None:
        copies = [(copy.direction, copy.blocks) for copy in plan.before_step]
        found.append((plan.now, [chunk.tokens for chunk in plan.chunks], copies))

    core = make_engine(
        TensorRtLlmScheduler(max_batch_size=4, max_num_tokens=64),
        blocks,
        memory=memory,
        cost=FakeCost(step=1.0, copy=0.5),
        prefix_caching=True,
    )
    BlockingDriver(core, requests, [1] * len(requests), note).run()
    return found


def test_offload_and_load_back() -> None:
    """Five device blocks. The second prompt drives out two of the first's three, the deepest. The
    third finds one block on the device and two on the host, computes one token, and drives out two
    of the second's: each copy makes its step wait for half a second.
    """
    requests = [
        prompt(0, "high", 1, 2, 3),
        prompt(1, "other", 4, 5, 6, arrival_s=2.0),
        prompt(2, "high", 1, 2, 3, arrival_s=5.0),
        prompt(3, "other", 4, 5, 6, arrival_s=9.0),
    ]
    memory = RetentionMemory({"high": 80}, host_cache_gib=4 / GIB)
    assert plans(memory, requests, 5) == [
        (0.0, [13], []),
        (2.0, [13], [("d2h", 2)]),
        (5.0, [1], [("h2d", 2), ("d2h", 2)]),
        (9.0, [1], [("h2d", 2), ("d2h", 2)]),
    ]
    # Without a host what was driven out is computed again.
    assert plans(RetentionMemory({"high": 80}), requests, 5) == [
        (0.0, [13], []),
        (2.0, [13], []),
        (5.0, [9], []),
        (9.0, [9], []),
    ]


def test_a_priority_keeps_a_prompt_on_the_device() -> None:
    """Seven blocks hold two prompts and a block. The third drives out the second, though that is
    newer than the first; the fourth then finds all of the first.
    """
    requests = [
        prompt(0, "high", 1, 2, 3),
        prompt(1, "other", 4, 5, 6, arrival_s=2.0),
        prompt(2, "other", 7, 8, 9, arrival_s=4.0),
        prompt(3, "high", 1, 2, 3, arrival_s=6.0),
    ]
    tokens = [chunks for _, chunks, _ in plans(RetentionMemory({"high": 80}), requests, 7)]
    assert tokens == [[13], [13], [13], [1]]
    tokens = [chunks for _, chunks, _ in plans(RetentionMemory(), requests, 7)]
    assert tokens == [[13], [13], [13], [13]]
