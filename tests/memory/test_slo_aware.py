"""`slo_aware`: what cached blocks are worth, worked by hand, and runs of an engine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness import BlockingDriver, FakeCost, make_engine, request
from slo_shelf import BLOCK, Shelf, prompt, write_weights

from superinfer.costs import Chunk
from superinfer.costs.learned import WARM_UP, LearnedCost
from superinfer.errors import ConfigError
from superinfer.memory.blocks.slabs import Slabs
from superinfer.memory.lru import LruMemory
from superinfer.memory.orders import Surroundings, build_order
from superinfer.memory.replay import CacheReplay
from superinfer.memory.reuse.history import History
from superinfer.memory.reuse.prices import Prices
from superinfer.memory.reuse.trails import LATELY_S
from superinfer.memory.slo_aware import SloAwareMemory
from superinfer.request import Request, SLOClass
from superinfer.schedulers.fcfs import FcfsScheduler


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


def test_seconds_of_a_stretch_follow_what_was_learned() -> None:
    cost = LearnedCost(ContextCost())
    prices = Prices(cost, BLOCK, lambda blocks, small: (blocks, 1))
    before = prices.compute_s(1024, 4096)
    for _ in range(WARM_UP):
        cost.prefills.learn(2.0, 1.0)
    cost.revision += 1
    assert prices.compute_s(1024, 4096) == pytest.approx(2 * before)


def test_the_best_weight_of_those_who_used_it_lately() -> None:
    history = History()
    history.visit(prompt(0.0, 1, 2, weight=5.0), 0.0)
    # The first stretch was used by the heavy one; the second is new.
    assert history.visit(prompt(10.0, 1, 3), 10.0).weights == [5.0, 1.0, 1.0]
    late = LATELY_S + 1.0
    assert set(history.visit(prompt(late, 1, 3), late).weights) == {1.0}


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
