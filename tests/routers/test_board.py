"""The board of `slo_aware` against asking every replica."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from superinfer.costs import build_cost
from superinfer.costs.base import CostModel, SliceLine
from superinfer.costs.learned import LearnedCost
from superinfer.engine import Engine
from superinfer.request import SLO, Request
from superinfer.routers.board import REACH_TOKENS, Board
from superinfer.routers.slo_aware import FEW, SloAwareRouter
from superinfer.routers.view import ReplicaView
from superinfer.schedulers.flexgen import FlexGenScheduler
from superinfer.schedulers.rotating.lengths import NoLengths

MODEL = "llama-3.1-8b"
SLOS = (
    SLO(),
    SLO(ttft_s=0.5),
    SLO(tpot_s=0.03),
    SLO(e2el_s=4.0),
    SLO(ttft_s=1.0, tpot_s=0.1),
    SLO(ttft_s=0.2, tpot_s=0.05, e2el_s=2.0),
    SLO(ttft_s=0.0),
)
REPLICAS = FEW + 8


class Saw:
    """Contexts up to a multiple of 1,000 tokens cost more and more, and from there less again."""

    def step_s(self, chunks: Sequence[Any], decodes: int, context_tokens: int) -> float:
        return 0.01 + 1e-4 * sum(chunk.tokens for chunk in chunks) + 1e-5 * (context_tokens % 1000)

    def slice_line(self, chunks: Sequence[Any], decodes: int, context_tokens: int) -> SliceLine:
        steps = -(-(1000 - context_tokens % 1000) // decodes)
        return SliceLine(self.step_s(chunks, decodes, context_tokens), 1e-5 * decodes, steps)

    def host_s(self, sequences: int) -> float:
        return 1e-5 * sequences


class Falling(Saw):
    """More context costs less."""

    def step_s(self, chunks: Sequence[Any], decodes: int, context_tokens: int) -> float:
        return 0.01 + 1e-4 * sum(chunk.tokens for chunk in chunks) + 1 / (100 + context_tokens)

    def slice_line(self, chunks: Sequence[Any], decodes: int, context_tokens: int) -> SliceLine:
        first_s, second_s = (
            self.step_s(chunks, decodes, context_tokens + more) for more in (0, decodes)
        )
        return SliceLine(first_s, second_s - first_s, 2)


def learned() -> LearnedCost:
    """Steps have taken longer than the nominal figures say."""
    cost = LearnedCost(build_cost(MODEL, "a100-80g", costs="roofline"))
    cost.decodes.factor, cost.prefills.factor = 1.4, 1.7
    return cost


COSTS: dict[str, CostModel] = {
    "calibrated": build_cost(MODEL, "a100-80g"),
    "replayed graphs": build_cost(MODEL, "h200"),
    "roofline": build_cost(MODEL, "a100-80g", costs="roofline"),
    "learned": learned(),
    "streamed": build_cost(MODEL, "t4-16g", placement=FlexGenScheduler().offloading()),
    "a saw": cast(CostModel, Saw()),
    "falling": cast(CostModel, Falling()),
}


class SomeCached:
    """Whole blocks of every other prompt."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks

    def match(self, request: Request, keys: object, limit_blocks: int) -> tuple[int, int]:
        return (min(self.blocks, limit_blocks) if request.index % 2 else 0), 0


def asked(rng: random.Random, index: int) -> Request:
    prompt_tokens = rng.choice((1, 40, 700, 3000, 20_000))
    return Request(f"r{index}", 0.0, prompt_tokens, 100, rng.choice(SLOS), index=index)


def replicas(
    rng: random.Random, costs: Sequence[CostModel], *, caching: bool, under_way: int = 3
) -> list[ReplicaView]:
    """Some of them in one state, and idle ones; who has what under way differs."""
    views = []
    states = [(0, 0), *((n, rng.randrange(30, 3000) * n) for n in (1, 3, 3, 24, 90))]
    for index in range(REPLICAS):
        decodes, context_tokens = rng.choice(states)
        engine = SimpleNamespace(
            batch=SimpleNamespace(size=decodes, context_tokens=context_tokens),
            pool=SimpleNamespace(available=rng.choice((5, 300, 3000))),
            block_tokens=16,
            believed=rng.choice(costs),
            prefix=SomeCached(rng.choice((0, 40))) if caching else None,
        )
        views.append(ReplicaView(index, cast(Engine, engine), NoLengths()))
        for number in range(rng.choice((0, 0, 1, under_way)) if under_way else 0):
            views[-1].sent(asked(rng, 1000 * (index + 1) + number))
    return views


@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("name", [*COSTS, "of all kinds"])
def test_it_sends_nobody_elsewhere(name: str, caching: bool) -> None:
    rng = random.Random(name)
    costs = [COSTS[name]] if name in COSTS else list(COSTS.values())
    chosen = set()
    for number in range(15):
        settings: dict[str, Any] = {
            "overtaking": rng.random() < 0.5,
            "prefix_weight": rng.choice((0.0, 1.0, 5.0)),
            "chunk_tokens": rng.choice((64, 512)),
            "pace_margin": rng.choice((0.0, 0.1, 0.7)),
        }
        views = replicas(rng, costs, caching=caching)
        by_board, by_asking = SloAwareRouter(**settings), SloAwareRouter(**settings)
        by_board.bind(views)
        by_asking.bind(views[:FEW])
        by_asking._replicas = views
        for index in range(10):
            request = asked(rng, 10 * number + index)
            found = by_board.route(request, 0.0)
            assert found == by_asking.route(request, 0.0)
            views[found].sent(request)
            chosen.add(found)
            if rng.random() < 0.5:
                views[found].began(request)
            if rng.random() < 0.2:
                views[found].ended(request, 9)
            moved = rng.choice(views)
            batch: Any = cast(Any, moved)._engine.batch
            batch.size, batch.context_tokens = rng.choice(((0, 0), (9, 9000)))
            moved.changed()
    assert len(chosen) > REPLICAS // 2


@pytest.mark.parametrize("name", COSTS)
def test_no_step_takes_less_than_the_board_says(name: str) -> None:
    rng = random.Random(name)
    views = replicas(rng, [COSTS[name]], caching=False)
    board = Board(views, 512)
    board.refresh()
    for prompt_tokens in (*range(1, 200), *rng.sample(range(200, 2 * REACH_TOKENS), 400)):
        request = Request("r", 0.0, prompt_tokens, 100, SLO())
        least_s = board.decode_step_least_s(request)
        steps_s = [view.decode_step_s(request) for view in views]
        assert all(least <= step for least, step in zip(least_s, steps_s, strict=True))


def test_only_who_changed_is_asked_again() -> None:
    views = replicas(random.Random(0), [COSTS["roofline"]], caching=False)
    board = Board(views, 512)
    board.refresh()
    before = board.room_tokens.copy()
    for view in views:
        cast(Any, view)._engine.pool.available += 1
    views[3].changed()
    board.refresh()
    assert (board.room_tokens - before).nonzero()[0].tolist() == [3]


class Counting(Saw):
    """Every sequence costs the same; notes how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def step_s(self, chunks: Sequence[Any], decodes: int, context_tokens: int) -> float:
        self.asked += 1
        return 0.01 * decodes + 1e-6 * context_tokens

    def slice_line(self, chunks: Sequence[Any], decodes: int, context_tokens: int) -> SliceLine:
        return SliceLine(self.step_s(chunks, decodes, context_tokens), 1e-6 * decodes, 1e9)


@pytest.mark.parametrize("decodes", [0, 1])
def test_few_are_asked_of_many(decodes: int) -> None:
    """Of replicas that are equal, or of which each has more decodes than the one before, one is
    asked once more: what a step with a chunk takes, and one of decodes alone.
    """
    cost = Counting()
    views = replicas(random.Random(0), [cast(CostModel, cost)], caching=False, under_way=0)
    for view in views:
        batch: Any = cast(Any, view)._engine.batch
        batch.size, batch.context_tokens = decodes * view.index, 100 * decodes * view.index
    router = SloAwareRouter()
    router.bind(views)
    hurried = Request("r", 0.0, 900, 100, SLO(tpot_s=0.5))
    router.route(hurried, 0.0)
    cost.asked = 0
    assert router.route(hurried, 0.0) == 0
    assert cost.asked == 2


def test_a_router_may_be_bound_again() -> None:
    """To few replicas behind many: those of before are nobody's."""
    views = replicas(random.Random(0), [COSTS["roofline"]], caching=False, under_way=0)
    router = SloAwareRouter()
    router.bind(views)
    router.bind(views[:2])
    views[0].sent(Request("r", 0.0, 900, 100, SLO(ttft_s=1.0), index=1))
    views[1].sent(Request("s", 0.0, 900, 100, SLO(ttft_s=1.0), index=2))
    assert router.route(Request("t", 0.0, 900, 100, SLO(tpot_s=0.5), index=3), 0.0) in {0, 1}


def test_replicas_are_alike_if_the_same_is_predicted_for_them() -> None:
    """Each but the last differs from the first in one thing that counts."""
    costs = [COSTS["roofline"]]
    views = replicas(random.Random(0), costs, caching=False, under_way=0)[:7]
    for view in views:
        engine: Any = cast(Any, view)._engine
        engine.batch.size, engine.batch.context_tokens = 4, 4000
    cast(Any, views[1])._engine.believed = COSTS["calibrated"]
    cast(Any, views[2])._engine.batch.size = 5
    cast(Any, views[3])._engine.batch.context_tokens = 4001
    views[4].sent(Request("r", 0.0, 10, 100, SLO(ttft_s=1.0), index=1))
    views[5].sent(Request("r", 0.0, 10, 100, index=2))
    board, cached = Board(views, 512), np.array([0.0] * 7)
    board.refresh()
    states = [board.state(number, cached) for number in range(7)]
    assert len(set(states)) == 6 and states[6] == states[0]
    cached[6] = 16.0
    assert board.state(6, cached) != states[0]
