"""FlexGen's blocks, worked by hand, iteration by iteration.

Blocks of memory have four tokens, as in the other worked schedules. A name with a number is a
prefill chunk, letters alone decode; the lines show what is asked for, the times show the padding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from harness import BlockingDriver, FakeCost, iterations, make_engine, request
from tiered import TieredLru

from sim.run import build_engine
from superinfer.costs import Chunk, FlexGenCost
from superinfer.draft import Draft
from superinfer.engine import Engine
from superinfer.errors import ConfigError, PlanError
from superinfer.lab.config import load_config
from superinfer.plan import Outcome
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.schedulers.flexgen import FlexGenScheduler
from superinfer.sequence import State

COST = FakeCost(step=1.0, per_chunk_token=2**-6, per_context_token=2**-8, host=0.25)
Job = tuple[float, int, int, int]
"""Arrival, prompt tokens, output tokens, declared limit."""


def flexgen(size: int = 2, batches: int = 1, **settings: Any) -> FlexGenScheduler:
    return FlexGenScheduler(size, batches, **settings)


def declared(**limits: int) -> dict[str, dict[str, Any]]:
    return {name: {"max_tokens": limit} for name, limit in limits.items()}


def run(scheduler: Any, jobs: list[Job], blocks: int = 64, **more: Any) -> Engine:
    """Run the jobs to their end."""
    engine = make_engine(scheduler, blocks, **{"cost": COST, **more})
    requests = [
        request(index, prompt, 0, arrival_s, max_tokens=limit)
        for index, (arrival_s, prompt, _, limit) in enumerate(jobs)
    ]
    BlockingDriver(engine, requests, [output for _, _, output, _ in jobs]).run()
    return engine


def times(engine: Engine) -> list[tuple[float | None, float | None]]:
    """First token and end of each request."""
    return [(seq.first_token_s, seq.finish_s) for seq in engine.recorder.sequences]


# -- the block barrier ----------------------------------------------------------------------------

# A and B fill a block of 8 + 4 tokens a place; C has to wait for the end of it.
BARRIER = {"A": (5, 2), "B": (8, 3), "C": (4, 2)}
LIMITS = declared(A=4, B=3, C=2)


def test_the_next_block_starts_when_the_whole_block_has_ended() -> None:
    """A's place and memory are free from the third step on, and C still waits."""
    assert iterations(flexgen(), BARRIER, blocks=16, requests=LIMITS) == [
        "A5 B8 used 4",
        "AB used 5",
        "B used 3",
        "C4 used 1",
        "C used 2",
    ]


def test_padding_costs_time() -> None:
    """Every step computes two places, of the longest prompt and as far as the longest answer.

    Prefill: 1 + 16/64 + 1/4 of host. Decodes: 1 + 2 * (9, 10, 11)/256 + 1/4; with the third of
    them, in which nobody is left, the block's four tokens are complete. C's block is one of four
    and two tokens, with an empty place: 1 + 8/64 + 1/4, then 1 + 2 * 5/256 + 1/4.
    """
    first = 1.5
    a_end = first + 1.25 + 18 / 256
    b_end = a_end + 1.25 + 20 / 256
    over = b_end + 1.25 + 22 / 256
    c_first = over + 1.375
    c_end = c_first + 1.25 + 10 / 256
    jobs = [(0.0, *BARRIER[name], LIMITS[name]["max_tokens"]) for name in "ABC"]
    assert times(run(flexgen(), jobs)) == [(first, a_end), (first, b_end), (c_first, c_end)]


@pytest.mark.parametrize("lag", [0, 1])
def test_who_ends_early_does_not_end_the_block(lag: int) -> None:
    """Whether answers stop early or run to their limits, the next block starts at the same time."""
    declared_jobs = [(0.0, 5, 9, 9), (0.0, 8, 12, 12), (0.5, 6, 3, 3)]
    starts = []
    for stops in ((9, 12), (1, 2), (1, 1), (4, 4), (9, 11)):
        jobs = [
            (arrival, prompt, stop, limit)
            for (arrival, prompt, _, limit), stop in zip(declared_jobs, (*stops, 3), strict=True)
        ]
        engine = run(flexgen(), jobs, lag=lag)
        starts.append(engine.recorder.sequences[2].first_token_s)
    assert starts == [starts[0]] * len(starts)


@pytest.mark.parametrize("lag", [0, 1])
def test_early_stop_ends_the_block_with_its_last_answer(lag: int) -> None:
    jobs = [(0.0, 5, 1, 40), (0.0, 8, 3, 40), (0.5, 6, 3, 40)]
    ends = times(run(flexgen(early_stop=True), jobs, lag=lag))
    steps = 2 + lag  # with lag 1 a step has begun when the last end becomes known
    seconds = [1 + 16 / 64, *(1 + 2 * context / 256 for context in (9, 10, 11)[:steps])]
    start_s = sum(seconds) + (0 if lag else 0.25 * len(seconds))
    assert ends[2][0] == start_s + 1 + 12 / 64 + (0 if lag else 0.25)


def test_nobody_joins_a_block_under_way() -> None:
    """D arrives when A's place is free, and waits."""
    jobs = {"A": (4, 1), "B": (4, 3), "D": (4, 1)}
    limits = declared(A=3, B=3, D=1)
    assert iterations(flexgen(), jobs, {"D": 2}, requests=limits) == [
        "A4 B4 used 2",
        "B used 2",
        "B used 2",
        "D4 used 1",
    ]


# -- a block that starts short --------------------------------------------------------------------


def test_a_block_starts_with_who_is_there() -> None:
    """A starts alone; B, C and D, who come a step later, fill the next block but for E."""
    jobs = {"A": (4, 2), "B": (4, 1), "C": (8, 2), "D": (4, 2), "E": (4, 1)}
    late = dict.fromkeys("BCDE", 2)
    limits = declared(A=2, B=2, C=2, D=2, E=1)
    assert iterations(flexgen(3), jobs, late, blocks=16, requests=limits) == [
        "A4 used 1",
        "A used 2",
        "B4 C8 D4 used 4",
        "CD used 5",
        "E4 used 1",
    ]


def test_empty_places_are_computed() -> None:
    """Alone in a block of four, of whatever batches."""
    decode = 1.25 + 4 * 9 / 256
    for scheduler in (flexgen(4), flexgen(2, 2), flexgen(1, 4)):
        engine = run(scheduler, [(0.0, 8, 2, 2)])
        assert times(engine) == [(1.25 + 32 / 64, 1.25 + 32 / 64 + decode)]


# -- memory ---------------------------------------------------------------------------------------


def test_all_places_have_to_fit_padded() -> None:
    """8 blocks of 4 tokens. A and C need 2 places of 8 + 9 - 1 tokens, all of them; E's 10 + 8 - 1
    never fit.
    """
    jobs = {"A": (4, 2), "C": (8, 2), "D": (4, 1), "E": (10, 1)}
    limits = declared(A=4, C=9, D=1, E=8)
    assert iterations(flexgen(), jobs, blocks=8, requests=limits)[:3] == [
        "A4 C8 used 3",
        "AC used 5",
        "D4 used 1",
    ]
    engine = run(flexgen(), [(0.0, 10, 1, 8), (0.0, 4, 1, 1)], 8)
    ended = [(seq.outcome, seq.end_reason) for seq in engine.recorder.sequences]
    assert ended == [("rejected", "exceeds_kv_capacity"), ("finished", None)]


def test_who_would_pad_the_block_too_far_starts_the_next() -> None:
    """A and B together would need 2 places of 12 + 8 - 1 tokens: 10 of 9 blocks."""
    jobs = {"A": (4, 2), "B": (12, 1), "C": (4, 1)}
    limits = declared(A=8, B=4, C=4)
    assert iterations(flexgen(early_stop=True), jobs, blocks=9, requests=limits) == [
        "A4 used 1",
        "A used 2",
        "B12 C4 used 4",
    ]


def test_a_prompt_longer_than_the_model_takes_is_rejected() -> None:
    engine = run(flexgen(), [(0.0, 33, 1, 8), (0.0, 32, 5, 8)], max_model_len=32)
    ended = [(seq.outcome, seq.end_reason) for seq in engine.recorder.sequences]
    assert ended == [("rejected", "prompt_too_long"), ("finished", None)]
    assert engine.recorder.sequences[1].output_tokens == 1


# -- clients that give up, and prefixes that come from the host -----------------------------------


def test_the_place_of_who_gave_up_stays_taken() -> None:
    """Cancelled after the first token: the next block starts after the padded length even so."""
    engine = make_engine(flexgen(), 64, cost=COST)
    gone = engine.submit(request(0, 8, 0, max_tokens=4), 0.0)
    engine.submit(request(1, 8, 0, 0.0, max_tokens=4), 0.0)
    plan = engine.plan(0.0)
    assert plan is not None
    other = plan.chunks[1].sequence
    engine.complete(plan, Outcome(1.5, [1.5], [other]))
    engine.cancel(gone, 1.5)
    waiting = engine.submit(request(2, 4, 0, 1.5, max_tokens=1), 1.5)
    assert engine.plan(1.5) is None
    over_s = 1.5 + 3 * 1.25 + 2 * (9 + 10 + 11) / 256
    assert engine.next_wakeup(1.5) == over_s
    following = engine.plan(over_s)
    assert following is not None and following.chunks[0].sequence is waiting


def test_a_prefill_waits_for_the_prefix_that_comes_from_the_host() -> None:
    """C's is A's, of which B pushed the end out to the host: a block comes back in 2 s."""
    memory = TieredLru(host_size_blocks=20, load_timing="background")
    cost = replace(COST, per_byte=2.0)
    events: list[Any] = []
    engine = make_engine(
        flexgen(1), 8, cost=cost, memory=memory, prefix_caching=True, sink=events.append
    )
    contents = {"A": (12, (1, 2, 3)), "B": (28, tuple(range(10, 17))), "C": (12, (1, 2, 3))}
    requests = [
        request(i, tokens, 0, 0.0, name, max_tokens=1, hash_ids=ids, hash_block_tokens=4)
        for i, (name, (tokens, ids)) in enumerate(contents.items())
    ]
    BlockingDriver(engine, requests, [1, 1, 1]).run()
    load = next(event for event in events if event[1] == "load")
    landing = next(event for event in events if event[1] == "transfer" and event[2] == "C")
    assert load[2:] == ("C", 1) and landing[0] == load[0] + 2
    # Two blocks of B make room, which takes 4 s; and all 12 tokens are computed all the same.
    assert engine.recorder.sequences[2].first_token_s == load[0] + 4 + 1.25 + 12 / 64


def test_a_block_that_everybody_leaves_before_it_began_is_over() -> None:
    """Its prefill waits for a prefix on the host, and the client gives up first."""
    engine = make_engine(flexgen(), 16, cost=COST)
    scheduler = engine.scheduler
    gone = engine.submit(request(0, 8, 0, max_tokens=9), 0.0)
    scheduler.plan(Draft(engine, 0.0), 0.0)  # a draft that is not carried out
    assert isinstance(scheduler, FlexGenScheduler)
    gone.state = State.MOVING_IN
    scheduler._unfilled = [gone]
    assert engine.plan(0.0) is None
    engine.end(gone, "cancelled", None, 0.0)
    following = engine.submit(request(1, 8, 0, max_tokens=2), 0.0)
    plan = engine.plan(0.0)
    assert plan is not None and plan.chunks[0].sequence is following


# -- slices, plans, settings ----------------------------------------------------------------------


def test_a_block_is_few_slices() -> None:
    engine = run(flexgen(3), [(0.0, 8, 900, 900), (0.0, 6, 500, 700), (0.0, 9, 901, 901)], 1024)
    assert engine.recorder.plans <= 5


class Padding(FcfsScheduler):
    """Pads every step to the same chunks and decodes."""

    work: Any = ([], 0, 0)

    def plan(self, draft: Draft, now: float) -> None:
        FcfsScheduler.plan(self, draft, now)
        draft.pad(*self.work)


def test_padding_never_hides_work() -> None:
    engine = make_engine(Padding(), 16)
    seq = engine.submit(request(0, 8, 0), 0.0)
    with pytest.raises(PlanError, match="padding to 0 chunks and 0 decodes is less than 1 and 0"):
        engine.plan(0.0)
    assert seq.state is State.WAITING


def test_a_padded_prefill_is_one_step() -> None:
    scheduler = Padding()
    scheduler.work = ([Chunk(8, 0)], 1, 9)
    engine = make_engine(scheduler, 16)
    engine.submit(request(0, 8, 0), 0.0)
    plan = engine.plan(0.0)
    assert plan is not None and plan.work_at(0) == scheduler.work
    engine.complete(plan, Outcome(1.0, [1.0]))
    with pytest.raises(PlanError, match="a slice of several steps has no padded chunks"):
        engine.plan(1.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gpu_batch_size": 0}, r"scheduler\.gpu_batch_size: expected above 0, got 0"),
        ({"num_gpu_batches": 0}, r"scheduler\.num_gpu_batches: expected above 0, got 0"),
        ({"auto_answer_tokens": 0}, r"scheduler\.auto_answer_tokens: expected above 0"),
        ({"disk_gb_per_s": 0}, r"scheduler\.disk_gb_per_s: expected above 0"),
        ({"percent": [100, 0, 0]}, r"scheduler\.percent: expected 6 numbers"),
        ({"percent": [90, 20, 100, 0, 100, 0]}, "shares of weights from 0 to 100 together"),
        ({"early_stop": "true", "num_gpu_batches": 2}, r"scheduler\.early_stop: only the loop"),
        ({"placement": "'best'"}, r"scheduler\.placement: expected one of 'given', 'auto'"),
        ({"gpu_batch_size": "'many'"}, r"scheduler\.gpu_batch_size: expected an integer"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], words: str) -> None:
    texts = [f"scheduler.{key}={value}" for key, value in settings.items()]
    with pytest.raises(ConfigError, match=words):
        build_engine(load_config(None, texts, scheduler="flexgen"))


def test_the_placement_reaches_cost_and_memory() -> None:
    """OPT-175B on a T4, which no other scheduler could place, and shares that are searched."""
    settings = ["scheduler.compress_weight=true", "scheduler.compress_cache=true"]
    settings += ["scheduler.gpu_batch_size=48", "scheduler.num_gpu_batches=3"]
    given = "scheduler.percent=[0, 100, 0, 100, 0, 100]"
    machine = {"model": "opt-175b", "device": "t4-16g", "scheduler": "flexgen"}
    engine, cost = build_engine(load_config(None, [*settings, given], **machine))
    assert isinstance(cost, FlexGenCost) and cost.placement.percent == (0, 100, 0, 100, 0, 100)
    assert engine.config.total_blocks == cost.capacity_blocks(1) > 144 * 543
    auto = "scheduler.placement=auto"
    _, found = build_engine(load_config(None, [*settings, auto], **machine))
    assert isinstance(found, FlexGenCost)
    assert found.placement.weights.gpu == 0 < found.placement.weights.disk
    assert replace(found.placement, gpu_batch_size=1).places == 3


def test_the_link_of_the_run_counts() -> None:
    settings = ["scheduler.percent=[0, 100, 100, 0, 100, 0]"]
    steps = []
    for speed in ("10", "20"):
        texts = [*settings, f"run.host_link_gb_per_s={speed}"]
        _, cost = build_engine(load_config(None, texts, scheduler="flexgen"))
        steps.append(cost.step_s((), 4, 40))
    assert steps[0] == pytest.approx(2 * steps[1])
