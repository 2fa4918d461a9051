"""`fastserve`: worked schedules (blocks of four tokens, no watermark, one second a step)."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import pytest
from harness import BlockingDriver, FakeCost, iterations, make_engine, request

from superinfer.draft import MAX_STEPS
from superinfer.engine import Engine
from superinfer.errors import ConfigError
from superinfer.plan import Plan
from superinfer.schedulers.fastserve import FastServeScheduler


def fastserve(**settings: Any) -> FastServeScheduler:
    """Quanta of 2, 4, 8, ... seconds."""
    settings.setdefault("watermark", 0.0)
    settings.setdefault("max_num_seqs", 4)
    settings.setdefault("max_num_batched_tokens", 32)
    settings.setdefault("base_quantum_ms", 2000.0)
    settings.setdefault("starvation_s", 100.0)
    settings.setdefault("starvation_period_steps", 1)
    return FastServeScheduler(**settings)


def test_who_used_its_quantum_stands_aside() -> None:
    """One place. B arrives at 0.5 s in A's level and waits until A sinks, at 2 s; A keeps its two
    blocks meanwhile.
    """
    lines = iterations(fastserve(max_num_seqs=1), {"A": (4, 6), "B": (4, 2)}, {"B": 2}, blocks=16)
    assert lines == [
        "A4 used 1",
        "A used 2",
        "B4 used 3",
        "B used 4",
        "A used 2",
        "A used 2",
        "A used 2",
        "A used 3",
    ]


def test_a_lower_level_is_moved_out_for_a_better_one() -> None:
    """B needs two blocks. While A is in its level it waits; from 2 s on A, a level lower, goes to
    the host, and comes back when B, in a better level, has ended.
    """
    lines = iterations(
        fastserve(swap_timing="before_step"),
        {"A": (8, 5), "B": (8, 2)},
        {"B": 2},
        blocks=4,
    )
    assert lines == [
        "A8 used 2",
        "A used 3",
        "B8 -A used 2",
        "B used 3",
        "+A A used 3",
        "A used 3",
        "A used 3",
    ]


def test_who_is_moved_out_uses_no_quantum() -> None:
    """The same with a longer B, which sinks to A's level at 4 s and, with A away, runs on. At 8 s
    it sinks again, and A, which has not used its own four seconds there, takes its place.
    """
    lines = iterations(
        fastserve(swap_timing="before_step"), {"A": (8, 5), "B": (8, 8)}, {"B": 2}, blocks=4
    )
    assert lines == [
        *("A8 used 2", "A used 3", "B8 -A used 2", *["B used 3"] * 4, "B used 4"),
        *("-B +A A used 3", "A used 3", "A used 3", "+B B used 4", "B used 4"),
    ]


def test_background_copies_hold_their_blocks_until_they_land() -> None:
    """The same with copies of a second beside the computation: B starts at 3 s, when A's has
    landed, and A's way back takes from 5 to 6 s. Nothing runs in either second, for want of blocks.
    """
    lines = iterations(
        fastserve(), {"A": (8, 5), "B": (8, 2)}, {"B": 2}, blocks=4, cost=FakeCost(copy=1.0)
    )
    assert lines == [
        "A8 used 2",
        "A used 3",
        "-A used 3",
        "B8 used 2",
        "B used 3",
        "+A used 3",
        "A used 3",
        "A used 3",
        "A used 3",
    ]


def test_without_room_on_the_host_the_better_level_waits() -> None:
    lines = iterations(fastserve(), {"A": (8, 5), "B": (8, 2)}, {"B": 2}, blocks=4, host_blocks=2)
    assert lines == ["A8 used 2", *["A used 3"] * 4, "B8 used 2", "B used 3"]


def test_growth_without_room_on_the_host_drops_a_cache() -> None:
    """A and B need a block each and none is left: B, which came last, computes its prompt and first
    token again when A has ended.
    """
    lines = iterations(fastserve(), {"A": (8, 3), "B": (8, 3)}, blocks=4, host_blocks=0)
    assert lines == ["A8 B8 used 4", "-B A used 3", "A used 3", "B9 used 3", "B used 3"]


@pytest.mark.parametrize(
    ("skip_join", "expected"),
    [(True, ["B4 used 1", "A20 used 5"]), (False, ["A20 used 5", "B4 used 1"])],
)
def test_a_long_prompt_enters_a_lower_level(skip_join: bool, expected: list[str]) -> None:
    """A's prefill takes 6 s, so its level is the third, of 8 s; B's takes 2 s."""
    lines = iterations(
        fastserve(max_num_seqs=1, skip_join=skip_join),
        {"A": (20, 1), "B": (4, 1)},
        cost=FakeCost(per_chunk_token=0.25),
    )
    assert lines == expected


@pytest.mark.parametrize(
    ("starvation_s", "period", "expected"),
    [
        (3.0, 1, ["A4 used 1", "A used 2", "A used 2", "B20 used 7", "A used 2", "A used 2"]),
        (3.0, 3, ["A4 used 1", "A used 2", "A used 2", "B20 used 7", "A used 2", "A used 2"]),
        (100.0, 1, ["A4 used 1", *["A used 2"] * 4, "B20 used 5"]),
    ],
)
def test_who_starves_rises(starvation_s: float, period: int, expected: list[str]) -> None:
    """One place; A's prefill takes 2 s, B's, which arrives at 0.5 s, 6 s. B is in the third level,
    A in the second from 2 to 6 s. At 4 s, after three steps, B has starved for 3.5 s and takes the
    place.
    """
    lines = iterations(
        fastserve(max_num_seqs=1, starvation_s=starvation_s, starvation_period_steps=period),
        {"A": (4, 5), "B": (20, 1)},
        {"B": 2},
        blocks=16,
        cost=FakeCost(per_chunk_token=0.25),
    )
    assert lines == expected


@pytest.mark.parametrize(("period", "iteration"), [(2, 3), (3, 4)])
def test_starving_requests_are_looked_for_every_so_many_steps(period: int, iteration: int) -> None:
    """Two places. B, in the third level, has starved by 5 s, when step 2 begins, and has a place as
    of the next look: before it there were a step of prompts alone, and one of D's prompt beside A.
    """
    lines = iterations(
        fastserve(max_num_seqs=2, starvation_s=3.0, starvation_period_steps=period),
        {"A": (4, 9), "C": (4, 2), "B": (20, 1), "D": (4, 8)},
        {"B": 2, "D": 3},
        blocks=40,
        cost=FakeCost(per_chunk_token=0.25),
    )
    assert lines[:2] == ["A4 C4 used 2", "D4 A used 4"]
    assert [number for number, line in enumerate(lines, 1) if "B20" in line] == [iteration]


def test_who_is_moved_out_starves_on() -> None:
    """One place, and requests of two seconds in a better level than A, which ran last at 2 s. It is
    passed over, and moved out at 4 s, for C needs its blocks. By 7 s it has not run for five
    seconds: it has the place at 8 s, before E.
    """
    lines = iterations(
        fastserve(max_num_seqs=1, starvation_s=5.0, swap_timing="before_step"),
        {"A": (4, 4), "B": (4, 2), "C": (12, 2), "D": (4, 2), "E": (4, 2)},
        dict.fromkeys("BCDE", 2),
        blocks=5,
    )
    assert lines == [
        *("A4 used 1", "A used 2", "B4 used 3", "B used 4", "C12 -A used 3", "C used 4"),
        *("D4 used 1", "D used 2", "+A A used 2", "A used 2", "E4 used 1", "E used 2"),
    ]


def test_who_is_passed_over_gets_no_place_that_is_not_there() -> None:
    """One place, and four of nine blocks for admission to leave alone. At 20 s A stands aside for B
    with five full blocks. With a sixth it could not be admitted any more, but it has been: it waits
    until B has ended.
    """
    lines = iterations(
        fastserve(max_num_seqs=1, watermark=0.45, proactive=False, swap_timing="before_step"),
        {"A": (7, 16), "B": (1, 12)},
        {"B": 2},
        blocks=9,
    )
    assert lines[18:] == [
        *("A used 7", "A used 7"),
        *("B used 7", "B used 7", *["B used 8"] * 4),
        *("A used 6", "A used 6"),
    ]


def test_whoever_is_passed_over_leaves_before_its_blocks_are_needed() -> None:
    """One place and so one block to keep free. At 2 s A sinks and stands aside with two blocks, B
    takes one and one is left: enough. At its second token B takes that, and A is moved out, though
    nobody is waiting for blocks; at 4 s B has ended and A comes back.
    """
    jobs = {"A": (4, 4), "B": (4, 2)}
    kept = fastserve(max_num_seqs=1, swap_timing="before_step", proactive=False)
    moved = fastserve(max_num_seqs=1, swap_timing="before_step")
    start = ["A4 used 1", "A used 2", "B4 used 3"]
    assert iterations(kept, jobs, {"B": 2}, blocks=4) == [
        *start,
        "B used 4",
        "A used 2",
        "A used 2",
    ]
    assert iterations(moved, jobs, {"B": 2}, blocks=3) == [
        "A4 used 1",
        "A used 2",
        "B4 -A used 1",
        "B used 2",
        "+A A used 2",
        "A used 2",
    ]


@pytest.mark.parametrize(
    ("host_blocks", "last"),
    [(64, ["+B B used 2", "B used 2"]), (4, ["B6 used 2", "B used 2"])],
)
def test_where_nothing_runs_the_first_gets_the_blocks_of_those_after_it(
    host_blocks: int, last: list[str]
) -> None:
    """One place. At 2 s A sinks and goes to the host, for B leaves no block free; at 4 s B sinks to
    A's level and stands aside for C. At 5 s C has ended: A is the first of its level and lacks a
    block, and B, after it, has two. Where the host has no room for B beside A, B is dropped.
    """
    lines = iterations(
        fastserve(max_num_seqs=1, swap_timing="before_step"),
        {"A": (8, 4), "B": (4, 4), "C": (4, 1)},
        {"B": 2, "C": 5},
        blocks=4,
        host_blocks=host_blocks,
    )
    assert lines == [
        "A8 used 2",
        "A used 3",
        "B4 -A used 1",
        "B used 2",
        "C4 used 3",
        "-B +A A used 3",
        "A used 3",
        *last,
    ]


def test_who_comes_back_needs_room_for_its_next_token() -> None:
    """The same with an A of two full blocks: as many are free at 5 s, but it needs a third."""
    lines = iterations(
        fastserve(max_num_seqs=1, swap_timing="before_step"),
        {"A": (7, 3), "B": (2, 3), "C": (4, 1)},
        {"B": 2, "C": 5},
        blocks=3,
    )
    assert lines == [
        "A7 used 2",
        "A used 2",
        "B2 -A used 1",
        "B used 1",
        "C4 used 2",
        "-B +A A used 3",
        "+B B used 1",
    ]


@pytest.mark.parametrize(
    ("timing", "expected"),
    [
        ("before_step", ["A8 used 4", "B4 -A used 1", "A8 +A used 4"]),
        ("background", ["A8 used 4", "-A used 4", "B4 used 1", "+A used 4", "A8 used 4"]),
    ],
)
def test_half_a_prompt_comes_back_to_the_blocks_that_it_had(
    timing: str, expected: list[str]
) -> None:
    """A's prompt takes all four blocks and, in two chunks, 6 s: its level is the third. B, in the
    first, moves it out after one chunk. The other chunk needs no block beside those of the prompt.
    """
    lines = iterations(
        fastserve(max_num_batched_tokens=8, swap_timing=timing),
        {"A": (16, 1), "B": (4, 1)},
        {"B": 2},
        blocks=4,
        cost=FakeCost(per_chunk_token=0.25, copy=1.0),
    )
    assert lines == expected


def test_who_comes_back_after_its_prompt_needs_room_for_its_next_token() -> None:
    """Quanta of 1, 2, ... s. A leaves with a prompt of two full blocks. At 3 s C has ended, B is
    passed over with one block, and as many as A had are free: it needs a third.
    """
    lines = iterations(
        fastserve(max_num_seqs=1, base_quantum_ms=1000.0, swap_timing="before_step"),
        {"A": (8, 2), "B": (2, 2), "C": (4, 1)},
        {"B": 2, "C": 3},
        blocks=3,
    )
    assert lines == ["A8 used 2", "B2 -A used 1", "C4 used 2", "-B +A A used 3", "+B B used 1"]


def test_growth_takes_the_blocks_of_the_last_that_is_passed_over() -> None:
    """One place. A is passed over from 2 s on, B from 4 s on, both in the second level; at 5 s C
    needs a block and none is left.
    """
    lines = iterations(
        fastserve(max_num_seqs=1, proactive=False, swap_timing="before_step"),
        {"A": (4, 4), "B": (4, 4), "C": (4, 2)},
        {"B": 2, "C": 4},
        blocks=5,
    )
    assert lines == [
        *("A4 used 1", "A used 2", "B4 used 3", "B used 4", "C4 used 5", "-B C used 4"),
        *("A used 2", "A used 2", "+B B used 2", "B used 2"),
    ]


def test_who_cannot_be_replaced_keeps_its_place() -> None:
    """One place. From 2 s on B is in a better level than A, but lacks a block, and the host has no
    room for A.
    """
    lines = iterations(
        fastserve(max_num_seqs=1), {"A": (8, 5), "B": (8, 2)}, {"B": 2}, blocks=4, host_blocks=2
    )
    assert lines == ["A8 used 2", *["A used 3"] * 4, "B8 used 2", "B used 3"]


@pytest.mark.parametrize(
    ("timing", "prompt", "expected"),
    [
        ("before_step", 8, ["-E +A A used 6", "A used 6", "D used 3", "D used 3", "+E E used 2"]),
        ("before_step", 12, ["-E -D +A A used 4", "A used 4", "+D D used 3", "D used 3"]),
        ("background", 8, ["-E used 5", "+A used 6", "A used 6"]),
        ("background", 12, ["-E -D used 5", "+A used 4", "A used 4"]),
    ],
)
def test_where_nothing_runs_no_more_leave_than_the_first_needs(
    timing: str, prompt: int, expected: list[str]
) -> None:
    """One place. A goes to the host for B, and every other stands aside for the next one when its
    quantum is over. When C has ended, A lacks two or three blocks; E, the last that is passed over,
    has two and D before it three. Beside the computation, too, nobody else goes while that copy is
    under way.
    """
    lines = iterations(
        fastserve(max_num_seqs=1, quantum_ratio=100.0, proactive=False, swap_timing=timing),
        {"A": (prompt, 4), "B": (16, 2), "D": (8, 4), "E": (4, 4), "C": (4, 1)},
        {"B": 2, "D": 4, "E": 6, "C": 8},
        blocks=6,
        cost=FakeCost(copy=float(timing == "background")),
    )
    end = lines.index("C4 used 6") + 1
    assert lines[end : end + len(expected)] == expected


def test_while_somebody_runs_those_of_one_level_keep_their_blocks() -> None:
    """Two places. A goes to the host for B, and D, of three blocks, stands aside for C. When C has
    ended, at 7 s, R, A and D are in one level and in this order; A lacks a block of those that D
    has, and waits until R has ended.
    """
    lines = iterations(
        fastserve(max_num_seqs=2, quantum_ratio=100.0, proactive=False, swap_timing="before_step"),
        {"R": (1, 12), "A": (8, 4), "B": (16, 2), "D": (8, 4), "C": (4, 1)},
        {"B": 2, "D": 5, "C": 7},
        blocks=8,
    )
    assert lines[6:] == [
        *("C4 R used 6", "R used 5", *["R used 6"] * 4),
        *("+A AD used 6", "AD used 6"),
    ]


# -- slices ---------------------------------------------------------------------------------------


def slices(
    scheduler: FastServeScheduler,
    jobs: dict[str, tuple[int, int]],
    arrivals_s: dict[str, float],
    *,
    blocks: int,
    also: Callable[[Engine, Plan], None] | None = None,
    **engine: Any,
) -> list[tuple[float, int, float]]:
    """When each plan was made, how many steps it may take, and until when."""
    seen: list[tuple[float, int, float]] = []

    def note(core: Engine, plan: Plan) -> None:
        seen.append((plan.now, plan.steps, plan.until))
        if also is not None:
            also(core, plan)

    made = [
        request(index, prompt, 0, arrivals_s.get(name, 0.0), name)
        for index, (name, (prompt, _)) in enumerate(jobs.items())
    ]
    core = make_engine(scheduler, blocks, host_blocks=64, **engine)
    BlockingDriver(core, made, [answer for _, answer in jobs.values()], note).run()
    return seen


def test_a_slice_ends_where_a_quantum_or_a_period_does() -> None:
    """One place. A computes its prompt in the first of ten steps and may decode in the nine others
    while B waits, but sinks at 2 s. B would sink at 4 s, and its second token takes the block that
    is to be kept free. Who is alone runs on as long as memory lasts, ten more tokens.
    """
    scheduler = fastserve(max_num_seqs=1, starvation_period_steps=10)
    assert slices(scheduler, {"A": (4, 6), "B": (4, 2)}, {}, blocks=4) == [
        *((0.0, 1, inf), (1.0, 9, 2.0)),
        *((2.0, 1, inf), (3.0, 1, 4.0)),
        *((4.0, 1, inf), (5.0, 10, inf)),
    ]


def test_no_slice_is_longer_than_any_may_be() -> None:
    scheduler = fastserve(max_num_seqs=1, starvation_period_steps=5000)
    seen = slices(scheduler, {"A": (4, 3), "B": (4, 1)}, {}, blocks=2000)
    assert seen[1] == (1.0, MAX_STEPS, 2.0)


@pytest.mark.parametrize(
    ("proactive", "then"),
    [(True, [(4.0, 7, 204.0), (11.0, 1, 204.0), (12.0, 1, 204.0)]), (False, [(4.0, 11, 204.0)])],
)
def test_a_slice_ends_where_blocks_have_to_be_kept_free(
    proactive: bool, then: list[tuple[float, int, float]]
) -> None:
    """One place. From 2 s on A is passed over with two of six blocks. At 4 s B sinks with two: it
    may take one more, for its tokens 9 to 12, and the last one with the next step, at 11 s. At 12 s
    A is moved out. Where nothing is kept free B goes on until it needs a seventh.
    """
    scheduler = fastserve(
        max_num_seqs=1, quantum_ratio=100.0, starvation_period_steps=500, proactive=proactive
    )
    seen = slices(scheduler, {"A": (4, 4), "B": (4, 14)}, {"B": 1.5}, blocks=6)
    assert [one for one in seen if 4.0 <= one[0] < 13.0] == then


def leaving(of: list[tuple[float, str]]) -> Callable[[Engine, Plan], None]:
    """Notes who goes to the host, and when."""

    def note(_: Engine, plan: Plan) -> None:
        of.extend(
            (plan.now, change.sequence.request.request_id)
            for change in plan.changes
            if change.kind == "swap_out"
        )

    return note


def test_no_more_leave_beside_the_computation_than_are_kept_free() -> None:
    """One place, and copies of two seconds. At 8 s A and D are passed over with two of six blocks
    each, and C, which is alone in the step, has the other two: D, the last, starts for the host,
    and A stays, for D's blocks will do. At 16 s C has taken them, too, and A leaves. B has come and
    gone before.
    """
    gone: list[tuple[float, str]] = []
    slices(
        fastserve(max_num_seqs=1, quantum_ratio=100.0),
        {"A": (4, 4), "B": (4, 2), "D": (4, 4), "C": (4, 12)},
        {"B": 1.5, "D": 3.5, "C": 5.5},
        blocks=6,
        also=leaving(gone),
        cost=FakeCost(copy=2.0),
    )
    assert gone == [(8.0, "D"), (16.0, "A")]


LEAVING = {"A": (4, 12), "B": (4, 12), "C": (15, 1)}


def test_who_grows_while_copies_are_under_way_may_have_to_leave_too() -> None:
    """C needs four of six blocks and A and B, a level lower, have two each. At 2 s B starts for the
    host, which takes five seconds: that will do. At 5 s A needs a third block, and then it will
    not, so A leaves as well; C starts at 7 s.
    """
    gone: list[tuple[float, str]] = []
    seen = slices(
        fastserve(quantum_ratio=100.0, starvation_period_steps=500),
        LEAVING,
        {"C": 1.5},
        blocks=6,
        also=leaving(gone),
        cost=FakeCost(copy=5.0),
    )
    assert gone[:2] == [(2.0, "B"), (5.0, "A")]
    assert seen[:6] == [
        *((0.0, 1, inf), (1.0, 8, inf)),
        *((2.0, 1, 202.0), (3.0, 1, 202.0), (4.0, 1, 202.0)),
        (5.0, 1, inf),
    ]


def test_the_blocks_of_one_that_has_ended_on_its_way_out_still_come_free() -> None:
    """As in the one before, but the copy takes two seconds, and B is cancelled in the step from 2 s
    on: its blocks will still do at 4 s, and A stays.
    """
    gone: list[tuple[float, str]] = []
    note = leaving(gone)

    def give_up(core: Engine, plan: Plan) -> None:
        note(core, plan)
        if plan.now == 2.0:
            core.cancel(list(core.live)[1], plan.now)

    seen = slices(
        fastserve(quantum_ratio=100.0, starvation_period_steps=500),
        LEAVING,
        {"C": 1.5},
        blocks=6,
        also=give_up,
        cost=FakeCost(copy=2.0),
    )
    assert gone == [(2.0, "B")]
    assert [one[0] for one in seen[2:5]] == [2.0, 3.0, 4.0]


def test_the_copy_of_one_that_has_ended_cuts_no_slice() -> None:
    """As where A has to leave, too, but B, on its way to the host, and C are cancelled in the step
    from 3 s on. A is alone, with seven tokens and room for nine more, until at 7 s B's copy lands.
    """

    def give_up(core: Engine, plan: Plan) -> None:
        if plan.now == 3.0:
            for seq in list(core.live)[1:]:
                core.cancel(seq, plan.now)

    scheduler = fastserve(quantum_ratio=100.0, starvation_period_steps=500)
    seen = slices(scheduler, LEAVING, {"C": 1.5}, blocks=6, also=give_up, cost=FakeCost(copy=5.0))
    assert seen[3:] == [(3.0, 1, 202.0), (4.0, 9, inf), (7.0, 14, inf)]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("base_quantum_ms", 0.0, "above 0, got 0"),
        ("starvation_s", -1.0, "above 0, got -1"),
        ("quantum_ratio", 1.0, "at least 1.01, got 1"),
        ("starvation_period_steps", 0, "at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused(name: str, value: float, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"scheduler\.{name}: expected {expected}"):
        make_engine(fastserve(**{name: value}), 10)
