"""Routing decisions worked out by hand, on replicas whose steps cost round numbers."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from superinfer.engine import Engine
from superinfer.errors import ConfigError
from superinfer.lab.config import load_config
from superinfer.request import SLO, Request
from superinfer.routers import ROUTERS
from superinfer.routers.base import Router
from superinfer.routers.least_loaded import LeastLoadedRouter
from superinfer.routers.prefix_affinity import PrefixAffinityRouter
from superinfer.routers.round_robin import RoundRobinRouter
from superinfer.routers.slo_aware import SloAwareRouter
from superinfer.routers.view import ReplicaView
from superinfer.schedulers.rotating.lengths import NoLengths

CHAT = SLO(ttft_s=1.0, tpot_s=0.1)
BLOCK_TOKENS = 16


class RoundCost:
    """A step takes 10 ms, 0.1 ms per prompt token and 1 ms per decode."""

    def step_s(self, chunks: Sequence[Any], decodes: int, context_tokens: int) -> float:
        return 0.01 + 1e-4 * sum(chunk.tokens for chunk in chunks) + 1e-3 * decodes

    def host_s(self, sequences: int) -> float:
        return 0.0


class Cached:
    """A prefix index that has so many blocks of every prompt."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks

    def match(self, request: Request, keys: object, limit_blocks: int) -> tuple[int, int]:
        return min(self.blocks, limit_blocks), 0


def replica(
    index: int, decodes: int = 0, free_blocks: int = 1000, cached_blocks: int | None = None
) -> ReplicaView:
    """A replica with so many decodes and so much room; None: without prefix caching."""
    engine = SimpleNamespace(
        batch=SimpleNamespace(size=decodes, context_tokens=100 * decodes),
        pool=SimpleNamespace(available=free_blocks),
        block_tokens=BLOCK_TOKENS,
        believed=RoundCost(),
        prefix=None if cached_blocks is None else Cached(cached_blocks),
    )
    return ReplicaView(index, cast(Engine, engine), NoLengths())


def request(index: int, prompt: int, slo: SLO = SLO(), **more: Any) -> Request:  # noqa: B008
    """With an answer of at most 100 tokens, which is what a gateway expects that knows nothing."""
    return Request(f"r{index}", 0.0, prompt, 100, slo, index=index, **more)


def sent(view: ReplicaView, *requests: Request) -> ReplicaView:
    for each in requests:
        view.sent(each)
    return view


def bound(router: Any, *views: ReplicaView) -> Any:
    router.bind(views)
    return router


# -- what a router sees ---------------------------------------------------------------------------


def test_a_view_follows_what_passes_the_gateway() -> None:
    chat, batch = request(0, 300, CHAT), request(1, 2000)
    view = sent(replica(0), chat, batch)
    assert (view.requests, view.outstanding_tokens) == (2, 300 + 100 + 2000 + 100)
    assert (view.hurried_prompt_tokens, view.patient_prompt_tokens) == (300, 2000)
    assert (view.hurried_requests, view.tightest_tpot_s()) == (1, 0.1)
    view.began(chat)
    view.began(chat)  # as after a preemption
    assert (view.outstanding_tokens, view.waiting_prompt_tokens) == (100 + 2000 + 100, 2000)
    view.ended(chat, 7)
    assert (view.requests, view.hurried_requests, view.tightest_tpot_s()) == (1, 0, None)
    view.ended(batch, 0)  # turned away before its first token
    assert (view.requests, view.outstanding_tokens, view.waiting_prompt_tokens) == (0, 0, 0)


def test_a_view_says_when_it_may_answer_otherwise() -> None:
    told: list[int] = []
    view, chat = replica(3), request(0, 300, CHAT)
    view.on_change = told.append
    for happened in (
        lambda: view.sent(chat),
        lambda: view.began(chat),
        lambda: view.ended(chat, 7),
        view.changed,
    ):
        told.clear()
        happened()
        assert told == [3]


def test_a_bound_on_any_latency_is_a_hurry() -> None:
    view = replica(0)
    for count, slo in enumerate((SLO(ttft_s=1.0), SLO(tpot_s=0.1), SLO(e2el_s=9.0)), 1):
        assert sent(view, request(count, 10, slo)).hurried_requests == count
    sent(view, request(8, 10), request(9, 10, SLO(min_tokens_per_s=5.0)))
    assert view.hurried_requests == 3


def test_the_tightest_pace_is_that_of_who_is_there() -> None:
    slow, quick = request(0, 10, SLO(tpot_s=0.2)), request(1, 10, SLO(tpot_s=0.05))
    view = sent(replica(0), slow, quick)
    assert view.tightest_tpot_s() == 0.05
    view.ended(quick, 1)
    assert view.tightest_tpot_s() == 0.2


def test_predictions() -> None:
    view = replica(0, decodes=20)
    # Four steps of 512 prompt tokens: 10 + 51.2 + 20 ms each.
    chunk_s = 0.01 + 0.0512 + 0.02
    assert view.first_token_s(request(0, 1024), 1024, 512) == pytest.approx(4 * chunk_s)
    # A prompt that is shorter than a step takes a step.
    assert view.first_token_s(request(0, 10), 0, 512) == pytest.approx(chunk_s)
    assert view.decode_step_s(request(0, 10)) == pytest.approx(0.01 + 0.021)
    assert view.free_kv_tokens == 16_000


# -- round robin and least loaded -----------------------------------------------------------------


def test_round_robin() -> None:
    router = bound(RoundRobinRouter(), *map(replica, range(3)))
    assert [router.route(request(i, 10), 0.0) for i in range(5)] == [0, 1, 2, 0, 1]


def test_least_loaded_goes_by_tokens_and_not_by_requests() -> None:
    many = sent(replica(0), request(0, 100), request(1, 100))  # 400 tokens
    one = sent(replica(1), request(2, 1000))  # 1,100
    router = bound(LeastLoadedRouter(), many, one)
    assert router.route(request(3, 10), 0.0) == 0
    one.began(request(2, 1000))  # 100
    assert router.route(request(3, 10), 0.0) == 1


def test_least_loaded_takes_the_first_of_equals() -> None:
    assert bound(LeastLoadedRouter(), *map(replica, range(3))).route(request(0, 10), 0.0) == 0


# -- prefix affinity ------------------------------------------------------------------------------


def test_a_prompt_follows_its_longest_prefix() -> None:
    views = [replica(0), replica(1)]
    router = bound(PrefixAffinityRouter(load_bound=10.0), *views)
    first, second = request(0, 1000, hash_ids=(1, 2)), request(1, 1000, hash_ids=(5, 6))
    assert router.route(first, 0.0) == 0
    views[0].sent(first)
    assert router.route(second, 0.0) == 1  # nothing known: the least loaded
    views[1].sent(second)
    assert router.route(request(2, 1500, hash_ids=(5, 6, 7)), 0.0) == 1
    assert router.route(request(3, 1500, hash_ids=(1, 9)), 0.0) == 0
    # The same ids in another namespace are another text.
    views[1].ended(second, 1)
    assert router.route(request(4, 10, hash_ids=(1, 2), namespace="other"), 0.0) == 1


def test_the_bound_sends_a_prompt_elsewhere_and_its_prefix_with_it() -> None:
    views = [replica(0), replica(1)]
    router = bound(PrefixAffinityRouter(load_bound=1.5), *views)
    asked = request(0, 1000, hash_ids=(1,))
    assert router.route(asked, 0.0) == 0
    views[0].sent(asked)  # 1,100 tokens; another such request would make 2,200 of a mean of 1,100
    assert router.route(asked, 0.0) == 1
    views[1].sent(request(1, 1000))
    # Now 2,200 of a mean of 1,650 are within the bound, and the second one is followed.
    assert router.route(asked, 0.0) == 1


def test_a_session_without_ids_follows_itself() -> None:
    views = [sent(replica(0), request(9, 50)), replica(1)]
    router = bound(PrefixAffinityRouter(load_bound=5.0), *views)
    assert router.route(request(0, 10, session_id="s"), 0.0) == 1
    views[1].sent(request(1, 60))
    assert router.route(request(2, 10, session_id="s"), 0.0) == 1
    assert router.route(request(3, 10), 0.0) == 0


def test_the_oldest_prefix_is_forgotten() -> None:
    views = [replica(0), replica(1)]
    router = bound(PrefixAffinityRouter(load_bound=100.0, max_prefixes=1), *views)
    assert router.route(request(0, 10, hash_ids=(1,)), 0.0) == 0
    views[0].sent(request(0, 10))
    assert router.route(request(1, 10, hash_ids=(2,)), 0.0) == 1
    views[1].sent(request(1, 500))
    assert router.route(request(2, 10, hash_ids=(2,)), 0.0) == 1
    views[0].sent(request(3, 1000))
    assert router.route(request(4, 10, hash_ids=(1,)), 0.0) == 1


# -- slo aware ------------------------------------------------------------------------------------


def test_chat_goes_where_its_tightest_target_has_most_room() -> None:
    # 60 decodes leave 29 of 100 ms per token, and 24 leave 65; the wait for the first token is
    # short on both.
    router = bound(SloAwareRouter(), replica(0, decodes=60), replica(1, decodes=24))
    assert router.route(request(0, 500, CHAT), 0.0) == 1
    # 5,000 prompt tokens ahead at 512 in 85.2 ms make the wait for the first token 0.92 s of 1 s.
    busy = sent(replica(1, decodes=24), request(9, 5000, CHAT))
    router = bound(SloAwareRouter(), replica(0, decodes=60), busy)
    assert router.route(request(0, 500, CHAT), 0.0) == 0


def test_prompts_of_batch_work_are_passed_unless_the_scheduler_goes_by_arrival() -> None:
    def views() -> list[ReplicaView]:
        return [sent(replica(0, decodes=10), request(9, 9000)), replica(1, decodes=24)]

    assert bound(SloAwareRouter(), *views()).route(request(0, 500, CHAT), 0.0) == 0
    by_arrival = bound(SloAwareRouter(overtaking=False), *views())
    assert by_arrival.route(request(0, 500, CHAT), 0.0) == 1


def test_an_end_to_end_target_counts_the_whole_answer() -> None:
    # 100 tokens at 71 ms take 7.1 s, at 35 ms 3.5 s: both are late, one by less.
    router = bound(SloAwareRouter(), replica(0, decodes=60), replica(1, decodes=24))
    assert router.route(request(0, 500, SLO(e2el_s=2.0)), 0.0) == 1


def test_a_view_knows_what_is_cached_of_a_prompt() -> None:
    view = replica(0, cached_blocks=62)
    assert [view.cached_tokens(request(0, tokens)) for tokens in (1000, 992, 5000)] == [
        992,
        976,  # one token at least is computed
        992,
    ]
    assert replica(0).cached_tokens(request(0, 1000)) == 0
    chat = request(0, 1000, CHAT)
    sent(view, chat)
    assert (view.hurried_prompt_tokens, view.waiting_prompt_tokens) == (8, 1000)
    view.began(chat)
    assert (view.hurried_prompt_tokens, view.waiting_prompt_tokens) == (0, 0)
    # A step of 512 tokens beside no decode takes 61.2 ms, and 8 tokens are not a whole one.
    assert view.first_token_s(chat, 0, 512) == pytest.approx(0.0612)
    assert view.saved_s(chat, 512) == pytest.approx(0.0612 * 992 / 512)
    assert replica(0).saved_s(chat, 512) == 0


def test_a_prefix_shortens_the_wait_for_the_first_token() -> None:
    # 5,000 tokens at 512 in 81.2 ms are 0.79 s of 1 s; with 4,992 of them cached 0.09 s.
    views = replica(0, decodes=20), replica(1, decodes=24, cached_blocks=312)
    for weight in (0.0, 1.0):
        router = bound(SloAwareRouter(prefix_weight=weight), *views)
        assert router.route(request(0, 5000, CHAT), 0.0) == 1


@pytest.mark.parametrize(
    ("decodes", "weight", "chosen"),
    [
        # Paces leave 0.69 at replica 0 and 0.65 at replica 1, where 165 ms of 1 s are spared.
        (24, 1.0, 1),
        (24, 0.0, 0),
        # With 60 decodes the pace leaves 0.29, and 235 ms do not make up for it.
        (60, 1.0, 0),
        (60, 3.0, 1),
    ],
)
def test_what_a_prefix_spares_others_is_weighed_against_the_load(
    decodes: int, weight: float, chosen: int
) -> None:
    views = replica(0, decodes=20), replica(1, decodes=decodes, cached_blocks=62)
    router = bound(SloAwareRouter(prefix_weight=weight), *views)
    assert router.route(request(0, 1000, CHAT), 0.0) == chosen


@pytest.mark.parametrize("slo", [SLO(tpot_s=0.1), SLO(e2el_s=20.0)])
def test_a_prefix_counts_under_every_target(slo: SLO) -> None:
    views = replica(0, decodes=20), replica(1, decodes=20, cached_blocks=62)
    assert bound(SloAwareRouter(), *views).route(request(0, 1000, slo), 0.0) == 1


def test_batch_work_takes_what_is_cached_off_the_load() -> None:
    other = sent(replica(1), request(8, 700))
    for blocks, chosen in ((None, 1), (62, 0)):
        holder = sent(replica(0, cached_blocks=blocks), request(9, 1500))
        assert bound(SloAwareRouter(), holder, other).route(request(0, 1000), 0.0) == chosen


def test_batch_work_goes_where_it_breaks_no_pace() -> None:
    # With 85 decodes one more makes 96 ms: above 90, which is the pace of chat less its margin.
    full = sent(replica(0, decodes=85), request(8, 10, CHAT))
    free = sent(replica(1, decodes=10), request(9, 5000))
    assert bound(SloAwareRouter(), full, free).route(request(0, 3000), 0.0) == 1
    # Without anybody to hurt the least loaded one takes it.
    idle = replica(0, decodes=85)
    assert bound(SloAwareRouter(), idle, free).route(request(0, 3000), 0.0) == 0


def test_batch_work_goes_where_it_fits() -> None:
    # 3,000 tokens of a prompt and 100 of an answer need 194 blocks.
    small, large = replica(0, free_blocks=193), sent(replica(1), request(9, 5000))
    assert bound(SloAwareRouter(), small, large).route(request(0, 3000), 0.0) == 1
    small = replica(0, free_blocks=194)
    assert bound(SloAwareRouter(), small, large).route(request(0, 3000), 0.0) == 0


def test_batch_work_that_fits_nowhere_goes_to_the_fewest_in_a_hurry() -> None:
    chats = sent(replica(0, free_blocks=10), request(7, 10, CHAT), request(8, 10, CHAT))
    one = sent(replica(1, free_blocks=10), request(9, 9000, CHAT))
    assert bound(SloAwareRouter(), chats, one).route(request(0, 3000), 0.0) == 1


# -- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROUTERS)
def test_every_router_is_built_by_its_name(name: str) -> None:
    config = load_config(None, (), router=name, replicas=2)
    router: Router = config.build_router()
    assert router.name == name
    router.bind([replica(0), replica(1)])
    assert router.route(request(0, 10, CHAT), 0.0) in (0, 1)
    assert config.resolved()["run"]["router"] == name


@pytest.mark.parametrize(
    ("router", "settings", "words"),
    [
        (
            PrefixAffinityRouter,
            {"load_bound": 0.5},
            "load_bound: expected at least 1, got 0.5",
        ),
        (
            PrefixAffinityRouter,
            {"max_prefixes": 0},
            "max_prefixes: expected at least 1, got 0",
        ),
        (SloAwareRouter, {"chunk_tokens": 0}, "router.chunk_tokens: expected at least 1, got 0"),
        (
            SloAwareRouter,
            {"prefix_weight": -1.0},
            "router.prefix_weight: expected a number of at least 0, got -1",
        ),
        (SloAwareRouter, {"pace_margin": 1.0}, "router.pace_margin: expected below 1, got 1"),
    ],
)
def test_settings_without_a_meaning_are_refused(
    router: Any, settings: dict[str, float], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        router(**settings)
