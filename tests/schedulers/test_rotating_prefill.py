"""`rotating`: how much is prefilled beside streams, and whose first token is given up."""

from __future__ import annotations

from itertools import combinations
from math import inf
from typing import Any

import pytest
from harness import FakeCost, iterations
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from property.workloads import SETTINGS
from rotating_runs import Run, arriving, promised, rotating, run, told
from schedulers.test_paying import Reading

from superinfer.schedulers.rotating.deadlines import job_of
from superinfer.schedulers.rotating.lengths import NoLengths
from superinfer.schedulers.rotating.triage import Work, given_up
from superinfer.schedulers.rotating.urgency import LOST_WEIGHT, judged, work_of
from superinfer.sequence import Sequence

CHUNKY = FakeCost(step=2**-6, per_chunk_token=2**-10)


def chunks_beside_a_stream(**settings: Any) -> list[int]:
    """Chunks of 2000 tokens beside a stream that is owed a token every 0.25 s. A step costs 1/64 s
    and 1/1024 s per chunk token.
    """
    requests = [
        arriving(0, 0.0, 4, **promised(ttft_s=1.0, tpot_s=0.25)),
        arriving(1, 0.03125, 2000),
    ]
    scheduler = rotating(max_num_batched_tokens=4096, admission=False, **settings)
    played = run(scheduler, requests, [40, 1], 2000, cost=CHUNKY)
    return [event[3] for event in played.kinds("prefill") if event[2] == "r1"]


def test_chunks_keep_the_pace_of_resident_streams() -> None:
    """95 % of 0.25 s less 1/64 s leave 227 tokens, of which 192 are whole grains of 64."""
    assert chunks_beside_a_stream() == [192] * 10 + [80]


def test_chunks_fill_tiles() -> None:
    """With tiles of 128 rows: the stream takes one of 128, and two tiles do not fit the pace."""
    assert chunks_beside_a_stream(tile_tokens=128) == [127] * 15 + [95]


def test_without_paced_chunks_the_whole_budget_is_used() -> None:
    assert chunks_beside_a_stream(paced_chunks=False) == [2000]


def test_a_pace_that_nobody_can_hold_is_not_waited_for() -> None:
    """Beside a stream that is owed a token every 1/32 s (95 % of it leave 14 tokens, less than a
    grain) a stream of 0.25 s sets the size: 192.
    """
    requests = [
        arriving(0, 0.0, 4, **promised(ttft_s=1.0, tpot_s=0.25)),
        arriving(1, 0.0, 4, **promised(ttft_s=1.0, tpot_s=2**-5)),
        arriving(2, 2**-5, 2000),
    ]
    scheduler = rotating(max_num_batched_tokens=4096, admission=False)
    played = run(scheduler, requests, [40, 40, 1], 2000, cost=CHUNKY)
    sizes = [event[3] for event in played.kinds("prefill") if event[2] == "r2"]
    assert sizes[:10] == [192] * 10


def test_decodes_never_wait_for_a_prefill() -> None:
    """A's token comes in every step beside B's chunks: the budget of 16 less one decode."""
    lines = iterations(rotating(admission=False), {"A": (4, 5), "B": (40, 1)}, {"B": 2}, blocks=16)
    assert lines == [
        "A4 used 1",
        "B15 A used 12",
        "B15 A used 12",
        "B10 A used 12",
        "A used 2",
    ]


def a_long_prompt(tenants: tuple[str, str], **settings: Any) -> tuple[int, list[Any]]:
    """Decisions, and events, of a prompt of 1000 tokens in chunks of 15 beside a stream of 80
    tokens, while two short ones wait for their turn from 10 s on.
    """
    requests = [arriving(0, 0.0, 4), arriving(1, 1.0, 1000)]
    requests += [
        arriving(index, 10.0, 40, tenant=tenant) for index, tenant in enumerate(tenants, 2)
    ]
    scheduler = rotating(admission=False, **settings)
    played = run(scheduler, requests, [80, 1, 1, 1], 300)
    return played.record.plans, [event for event in played.events if event[1] != "submit"]


def test_the_long_middle_of_a_prompt_is_one_decision() -> None:
    """67 chunks of 15 tokens: without slices each is a decision of its own. Two tenants that wait
    may change places by what is computed for a third, so then nothing is put together.
    """
    plans, events = a_long_prompt(("b", "b"), aging=False)
    step_by_step, same = a_long_prompt(("b", "c"), aging=False)
    assert plans < 15
    assert step_by_step > 60
    prefills = [event[2:] for event in events if event[1] == "prefill"]
    assert prefills[:68] == [
        ("r0", 4, 0),
        *(("r1", 15, 15 * chunk) for chunk in range(66)),
        ("r1", 10, 990),
    ]
    assert [event[2:] for event in same if event[1] == "prefill"] == prefills


def test_a_slice_of_chunks_ends_for_an_alarm() -> None:
    """The two that wait are aged at 25 s, in the middle of a slice, and the prompt is not one of
    them: for nearly all of the 44 steps that it has left, the share of the aged could come due.
    """
    plans, _ = a_long_prompt(("b", "b"), max_wait_s=15.0)
    assert 35 < plans < 54


def test_without_paying_chunks_the_whole_budget_is_used() -> None:
    """Reading the weights takes as long as a tile, so a tile is as good as four, once a request has
    shown how long requests are. It is first tokens that count where no answer has a deadline that
    is still to come.
    """
    for paying, due_s, first in ((True, 1e4, 127), (False, 1e4, 511), (True, None, 511)):
        requests = [
            arriving(0, 0.0, 96, **promised(e2el_s=1e4)),
            arriving(1, 1.0, 4),
            arriving(2, 30.0, 1000, **promised(e2el_s=due_s)),
        ]
        scheduler = rotating(tile_tokens=128, max_num_batched_tokens=512, paying_chunks=paying)
        played = run(scheduler, requests, [32, 1000, 1], 3000, cost=Reading())
        chunks = [event[3] for event in played.kinds("prefill") if event[2] == "r2"]
        assert chunks[0] == first


def test_a_long_prompt_that_has_begun_makes_no_short_one_late() -> None:
    """L's 8 steps are due at 10 s, S's one at 4 s: L has to start first, but S is due first."""
    lines = iterations(
        rotating(),
        {"L": (128, 1), "S": (16, 1)},
        {"S": 2},
        blocks=48,
        requests={"L": promised(ttft_s=10.0), "S": promised(ttft_s=3.0)},
    )
    chunks = [line.split(" used")[0] for line in lines]
    assert chunks == ["L16", "S16"] + ["L16"] * 7


@pytest.mark.parametrize(("e2el_s", "first"), [(11.0, "S"), (9.0, "L")])
def test_a_deadline_for_the_answer_is_one_for_its_prefill(e2el_s: float, first: str) -> None:
    """L's prefill of 4 steps is followed by 4 tokens: 1.15 * (4 + 4) s before the answer is due it
    has to start, and 4 s after that it has to be done. That is before S is due at 5 s, or not.
    """
    lines = iterations(
        told({"L": 4, "S": 1}),
        {"L": (64, 4), "S": (16, 1)},
        {"S": 2},
        blocks=32,
        requests={"L": promised(e2el_s=e2el_s), "S": promised(ttft_s=4.0)},
    )
    assert lines[1].startswith(f"{first}16")


# -- relegation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("on", [True, False])
def test_relegation(on: bool) -> None:
    """L needs 4 steps and is due at 4.5 s, S needs one by 4.75 s and T one by 5.5 s. All three take
    6 steps. Without relegation the earliest deadline goes first: L is in time, S and T are late.
    With it L, the longest of those that cannot all be in time, gives way, and only L is late.
    """
    lines = iterations(
        rotating(relegation=on),
        {"L": (64, 1), "S": (16, 1), "T": (16, 1)},
        blocks=32,
        requests={
            "L": promised(ttft_s=4.5),
            "S": promised(ttft_s=4.75),
            "T": promised(ttft_s=5.5),
        },
    )
    chunks = [line.split(" used")[0] for line in lines]
    long, short = ["L16"] * 4, ["S16", "T16"]
    assert chunks == (short + long if on else long + short)


def test_the_relegated_go_before_those_who_were_promised_nothing() -> None:
    """A is late from the start (4 steps, 1 s). B came earlier and owes nothing, C makes both wait
    for the only place.
    """
    requests = [
        arriving(0, 0.0, 4),
        arriving(1, 0.25, 16),
        arriving(2, 0.5, 64, **promised(ttft_s=1.0)),
    ]
    scheduler = rotating(max_num_seqs=1, rotation=False)
    played = run(scheduler, requests, [4, 1, 1], 32)
    assert [event[2] for event in played.kinds("relegate")] == ["r2"]
    assert [played.tokens(row)[0] for row in range(3)] == [1.0, 9.0, 8.0]


def test_of_the_relegated_the_shortest_goes_first() -> None:
    """A holds the only place until 4 s, and nobody behind it can be in time. B needs four steps and
    came first, C and D need one: the two wait a step or two, and B two steps more.
    """
    late = promised(ttft_s=1.0)
    requests = [
        arriving(0, 0.0, 4),
        arriving(1, 0.25, 64, **late),
        arriving(2, 0.5, 16, **late),
        arriving(3, 0.75, 16, **late),
    ]
    played = run(rotating(max_num_seqs=1, rotation=False), requests, [4, 1, 1, 1], 32)
    assert [played.tokens(row)[0] for row in range(4)] == [1.0, 10.0, 5.0, 6.0]


def on_time(jobs: list[Work]) -> bool:
    """True if all of them are, in order of deadlines."""
    busy_s = 0.0
    for job in sorted(jobs, key=lambda job: job.due):
        busy_s += job.work
        if busy_s > job.due:
            return False
    return True


WORKS = st.lists(
    st.builds(
        Work,
        st.integers(0, 20).map(float),
        st.integers(1, 8).map(float),
        st.just(False),
        st.just(1.0),
    ),
    max_size=8,
)
WEIGHTS = st.lists(st.sampled_from([0.5, 1.0, 2.0, 10.0]), min_size=8, max_size=8)


@hypothesis_settings(SETTINGS, max_examples=150)
@given(works=WORKS)
def test_as_few_are_given_up_as_possible(works: list[Work]) -> None:
    """Moore's rule against all subsets."""
    jobs = sorted(works, key=lambda job: job.due)
    dropped = given_up((job, place) for place, job in enumerate(jobs))
    assert on_time([job for place, job in enumerate(jobs) if place not in dropped])
    best = next(
        size
        for size in range(len(jobs), -1, -1)
        if any(on_time(list(chosen)) for chosen in combinations(jobs, size))
    )
    assert len(jobs) - len(dropped) == best


@hypothesis_settings(SETTINGS, max_examples=150)
@given(works=WORKS, weights=WEIGHTS)
def test_who_is_kept_is_in_time_whatever_weighs_more(
    works: list[Work], weights: list[float]
) -> None:
    jobs = sorted(works, key=lambda job: job.due)
    jobs = [job._replace(weight=weight) for job, weight in zip(jobs, weights, strict=False)]
    dropped = given_up((job, place) for place, job in enumerate(jobs))
    assert len(dropped) == len(set(dropped))
    assert on_time([job for place, job in enumerate(jobs) if place not in dropped])


@pytest.mark.parametrize(
    ("long_weight", "expected"),
    [(1.0, ["long"]), (3.0, ["long"]), (5.0, ["s0", "s1", "s2"]), (100.0, ["s0", "s1", "s2"])],
)
def test_who_takes_most_for_its_weight_is_given_up(long_weight: float, expected: list[str]) -> None:
    """Of 6 units and four times 1.5, 7.5 are in time: three of the short ones less, or the long one
    and none. The long one takes four times as much.
    """
    jobs = [(Work(7.5, 6.0, False, long_weight), "long")]
    jobs += [(Work(7.5, 1.5, False), f"s{place}") for place in range(4)]
    assert given_up(jobs) == expected


def test_no_less_is_given_up_than_the_one_that_came_last_takes() -> None:
    """The short one takes most for its weight, but what it takes is not enough: the long one goes
    as well, or the last would be late.
    """
    jobs = [
        (Work(8.0, 2.0, False, 0.1), "short"),
        (Work(8.0, 6.0, False, 1.0), "long"),
        (Work(8.0, 7.0, False, 10.0), "last"),
    ]
    assert given_up(jobs) == ["short", "long"]


@pytest.mark.parametrize("light", [0.1, LOST_WEIGHT])
def test_nobody_is_given_up_for_who_is_late_by_itself(light: float) -> None:
    """The last one takes six units and is due after three. Whoever comes before it takes more for
    its weight, and would be lost for nothing.
    """
    jobs = [(Work(2.0, 1.0, False, light), "early"), (Work(3.0, 6.0, False), "late")]
    assert given_up(jobs) == ["late"]


@pytest.mark.parametrize(("weight", "late"), [(1.0, ["r0"]), (10.0, ["r1", "r2", "r3"])])
def test_a_weighty_prompt_is_not_given_up_for_light_ones(weight: float, late: list[str]) -> None:
    """L takes four steps and three others one each, and all are due in 4.5 s: either L is late, or
    the others are.
    """
    requests = [
        arriving(0, 0.0, 64, **promised(ttft_s=4.5, weight=weight)),
        *(arriving(row, 0.0, 16, **promised(ttft_s=4.5)) for row in (1, 2, 3)),
    ]
    played = run(rotating(), requests, [1] * 4, 64)
    assert [event[2] for event in played.kinds("relegate")] == late
    assert [f"r{row}" for row in range(4) if played.tokens(row)[0] > 4.5] == late


@hypothesis_settings(SETTINGS, max_examples=60)
@given(works=WORKS, fixed=st.sets(st.integers(0, 7)))
def test_who_is_under_way_is_never_given_up(works: list[Work], fixed: set[int]) -> None:
    jobs = sorted(works, key=lambda job: job.due)
    jobs = [job._replace(fixed=place in fixed) for place, job in enumerate(jobs)]
    dropped = given_up((job, place) for place, job in enumerate(jobs))
    assert not fixed & set(dropped)
    assert len(dropped) == len(set(dropped))


@pytest.mark.parametrize(("due", "expected"), [(3.0, []), (6.5, ["early"])])
def test_nobody_is_given_up_for_an_aged_prompt_that_is_late_by_itself(
    due: float, expected: list[str]
) -> None:
    """The aged one takes six units. Due after three it has lost its first token in any case, and
    whoever comes before it loses nothing more; due after 6.5 it would be in time without them.
    """
    aged = job_of(Sequence(arriving(0, 0.0, 96, **promised(ttft_s=3.0))), NoLengths())
    aged.placed = aged.aged = True
    jobs = [(Work(2.0, 1.0, False), "early"), (judged(aged, Work(due, 6.0, False)), "aged")]
    assert given_up(jobs) == expected


def test_a_stream_that_comes_back_leaves_no_room_for_others() -> None:
    """A stream that was rotated out has nothing to compute: its answer is no work that is saved."""
    seq = Sequence(arriving(0, 0.0, 40, **promised(ttft_s=1.0)))
    job = job_of(seq, NoLengths())
    assert work_of(job, 0.5, 16, 0.25) == Work(2 * 16, 40, False)
    seq.computed_tokens, seq.output_tokens = 40 + 24, 25
    assert work_of(job, 0.5, 16, 0.25) == Work(inf, 0, True)


@pytest.mark.parametrize("on", [True, False])
def test_a_prompt_takes_a_place_when_its_turn_has_come(on: bool) -> None:
    """L takes the steps to 4 s, X needs three until 7.5 s, and at 0.5 s come two of one step each,
    due at 6 and 6.25 s. Without a place X, the longest of those that cannot all be in time, gives
    way. With one it cannot be given up: one of the other two is, and X is late all the same.
    """
    requests = [
        arriving(0, 0.0, 64, **promised(ttft_s=4.5)),
        arriving(1, 0.0, 48, **promised(ttft_s=7.5)),
        arriving(2, 0.5, 16, **promised(ttft_s=5.5)),
        arriving(3, 0.5, 16, **promised(ttft_s=5.75)),
    ]
    played = run(rotating(prefill_turns=on), requests, [1, 1, 1, 1], 64)
    firsts = [played.tokens(row)[0] for row in range(4)]
    assert firsts == ([4.0, 9.0, 5.0, 6.0] if on else [4.0, 8.0, 9.0, 5.0])


def begun_and_late(ttft_s: float, **more: Any) -> Run:
    """L needs six steps for a first token that is due in three, and is alone until S comes at 0.5 s
    with two steps of its own.
    """
    requests = [
        arriving(0, 0.0, 96, **promised(ttft_s=3.0)),
        arriving(1, 0.5, 32, **promised(ttft_s=ttft_s)),
    ]
    settings = {"relegation": more.pop("relegation", True)}
    return run(told({"r0": 2, "r1": 2}, **settings), requests, [2, 2], 64, **more)


def test_a_begun_prompt_that_is_late_in_any_case_makes_no_other_late() -> None:
    """At 1 s L has a step behind it and four blocks, which wait on the host until S is through at
    3 s, and have not to be computed again: S decodes in the first of the steps that L takes.
    """
    played = begun_and_late(3.5)
    kinds = [event[:3] for event in played.events if event[1] in ("rotate_out", "relegate")]
    assert kinds == [(1.0, "rotate_out", "r0"), (1.0, "relegate", "r0")]
    assert [played.tokens(row)[0] for row in (0, 1)] == [9.0, 3.0]
    assert played.scheduler.counters["relegations"] == 1
    assert [begun_and_late(3.5, relegation=False).tokens(row)[0] for row in (0, 1)] == [6.0, 9.0]


@pytest.mark.parametrize("more", [{"host_blocks": 0}, {"prefix_caching": True}])
def test_it_is_dropped_where_nothing_has_to_be_copied_or_nothing_can_be(
    more: dict[str, Any],
) -> None:
    played = begun_and_late(3.5, **more)
    assert [event[:3] for event in played.kinds("preempt")] == [(1.0, "preempt", "r0")]
    assert [played.tokens(row)[0] for row in (0, 1)] == [10.0, 3.0]


def test_a_begun_prompt_stays_where_nobody_is_late_for_it() -> None:
    played = begun_and_late(9.0)
    assert not played.kinds("relegate")
    assert [played.tokens(row)[0] for row in (0, 1)] == [6.0, 9.0]


@pytest.mark.parametrize("on", [True, False])
def test_who_became_late_before_its_turn_makes_nobody_late(on: bool) -> None:
    """L takes the steps to 4 s. X, three steps and an answer of one token by 7 s, had to start by
    7 - 1.3 * (3 + 1) = 1.8 s: it is not waited for any more, and Y, due at 8 s, comes before.
    """
    requests = [
        arriving(0, 0.0, 64, **promised(ttft_s=4.5)),
        arriving(1, 0.0, 48, **promised(e2el_s=7.0)),
        arriving(2, 0.5, 16, **promised(e2el_s=7.5)),
    ]
    lengths = {"r0": 1, "r1": 1, "r2": 1}
    played = run(told(lengths, relegation=on), requests, [1, 1, 1], 64)
    firsts = [played.tokens(row)[0] for row in range(3)]
    assert firsts == ([4.0, 8.0, 5.0] if on else [4.0, 7.0, 8.0])


def test_a_prompt_holds_no_blocks_before_its_turn() -> None:
    """L takes the first four steps whole: until then S, which is as urgent, holds no blocks."""
    lines = iterations(
        rotating(),
        {"L": (64, 1), "S": (40, 1)},
        blocks=32,
        requests={"L": promised(ttft_s=5.0), "S": promised(ttft_s=9.0)},
    )
    assert lines == ["L16 used 16"] * 4 + ["S16 used 10", "S16 used 10", "S8 used 10"]


def test_who_comes_before_a_prefill_under_way_need_not_wait_for_it() -> None:
    """L's 60 tokens, due at 11.5 s, fill every chunk. S's 16 come after the first of them and are
    due at 6.5 s: S's turn is before L's, so A leaves for it at once.
    """
    lines = iterations(
        told({"A": 30, "L": 1, "S": 1}),
        {"A": (20, 6), "L": (60, 1), "S": (16, 1)},
        {"L": 4, "S": 5},
        blocks=24,
        requests={"L": promised(ttft_s=9.0), "S": promised(ttft_s=3.0)},
    )
    assert lines[:6] == [
        "A16 used 5",
        "A4 used 5",
        "A used 6",
        "L15 A used 21",
        "S15 -A used 19",
        "S1 L15 used 19",
    ]
