"""Copies on the two directions of the link: their ends, alone and in company."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from harness import FakeCost
from hypothesis import given
from hypothesis import strategies as st

from superinfer.costs import CalibratedCost, load_profile, load_shape
from superinfer.plan import Direction, Plan, Transfer
from superinfer.transfers.links import Copy, CopyQueues, Links

RECORDED = Path(__file__).parents[2] / "experiments/results/h200-early/profile-llama-3.1-8b.json"
ALONE = FakeCost(per_byte=1.0)
SLOWER = FakeCost(per_byte=1.0, duplex=1.5)


def copy(direction: Direction, seconds: int) -> Transfer:
    return Transfer(None, direction, 1, seconds, 1, "background")


def plan(now: float, before: list[Transfer], background: list[Transfer], duplex: bool) -> Plan:
    return Plan(now, [], 0, 0, 1, 0.0, before, background, 0, [], [], 0, 0, duplex)


def test_copies_one_way_do_not_slow_each_other() -> None:
    for cost in (ALONE, SLOWER):
        queues = CopyQueues(cost)
        queues.begin(0.0, 0.0)
        made = [queues.add(copy("h2d", seconds), 1.0) for seconds in (4, 2)]
        assert [queues.end_s(one) for one in made] == [5.0, 7.0]
        assert queues.free_s("h2d") == 7.0 and queues.free_s("d2h") == 0.0


def test_copies_both_ways_are_slower_for_as_long_as_they_overlap() -> None:
    """6 s out from 0 on, 2 s in from 1 on: 3 s of company, in which the way out does 2 s."""
    queues = CopyQueues(SLOWER)
    queues.begin(0.0, 0.0)
    out = queues.add(copy("d2h", 6), 0.0)
    assert queues.end_s(out) == 6.0
    queues.begin(1.0, 1.0)
    back = queues.add(copy("h2d", 2), 1.0)
    assert queues.end_s(back) == pytest.approx(4.0)
    assert queues.end_s(out) == pytest.approx(7.0)
    queues.begin(8.0, 8.0)
    assert queues.end_s(queues.add(copy("h2d", 2), 8.0)) == 10.0


def test_copies_end_that_company_all_but_stops() -> None:
    """Their shares of the speed would round to nothing."""
    queues = CopyQueues(FakeCost(per_byte=1.0, duplex=1e30))
    queues.begin(0.0, 0.0)
    out, back = queues.add(copy("d2h", 2), 0.0), queues.add(copy("h2d", 1), 0.0)
    assert queues.end_s(back) == pytest.approx(1e9)
    assert queues.end_s(out) == pytest.approx(1e9 + 1)


def test_without_measured_company_ends_are_those_of_each_way_alone() -> None:
    queues = CopyQueues(ALONE)
    queues.begin(0.0, 0.0)
    pairs = [(queues.add(copy(way, 3), 0.0)) for way in ("h2d", "d2h", "h2d")]
    assert [queues.end_s(one) for one in pairs] == [3.0, 3.0, 6.0]


def test_a_batch_waits_for_copies_that_others_slow() -> None:
    """Full duplex: 2 s in before the step beside 2 s out in the background."""
    background = [copy("d2h", 2)]
    ready_s, started = CopyQueues(SLOWER).book(
        plan(0.0, [copy("h2d", 2)], background, True), 0.0, 0.0
    )
    assert ready_s == pytest.approx(3.0) and len(started) == 1
    queues = CopyQueues(SLOWER)
    ready_s, _ = queues.book(plan(0.0, [copy("d2h", 2), copy("h2d", 2)], [], False), 0.0, 0.0)
    assert ready_s == 4.0  # one after the other, so nobody has company


def test_what_is_over_stays_as_it_was() -> None:
    """With lag 1 a copy may be booked from a time on at which another one has landed since."""
    queues = CopyQueues(SLOWER)
    queues.begin(0.0, 0.0)
    out = queues.add(copy("d2h", 2), 0.0)
    assert queues.end_s(out) == 2.0
    queues.begin(1.0, 3.0)
    back = queues.add(copy("h2d", 2), 1.0)
    assert (queues.end_s(out), queues.end_s(back)) == (2.0, pytest.approx(1 + 1 + 4 / 3))


def test_what_a_step_waits_for_is_queued_and_keeps_no_direction_busy() -> None:
    links, behind = Links(SLOWER), copy("d2h", 3)
    links.start([copy("d2h", 2), copy("h2d", 1)], [behind], 0.0)
    assert links.queued_s("d2h", 0.0) > links.copy_s(copy("d2h", 5))
    assert (links.busy("d2h"), links.busy("h2d")) == (True, False)
    links.landed(behind, 6.0)
    assert not links.busy("d2h") and links.queued_s("d2h", 6.0) == 0.0


def test_predictions_follow_what_lands() -> None:
    links = Links(SLOWER)
    out, back = copy("d2h", 6), copy("h2d", 6)
    links.start([], [out, back], 0.0)
    assert links.queued_s("d2h", 0.0) == links.queued_s("h2d", 0.0) == pytest.approx(9.0)
    links.landed(out, 3.0)
    assert links.queued_s("d2h", 3.0) == 0.0
    assert links.queued_s("h2d", 3.0) == pytest.approx(4.0)  # 3 s of company did 2 s of 6
    assert links.copy_s(out) == 6.0 and links.copy_s(out, company=True) == 9.0


JOBS = st.lists(
    st.tuples(st.sampled_from(("h2d", "d2h")), st.integers(1, 9), st.integers(0, 6)),
    min_size=1,
    max_size=12,
)


@given(JOBS)
def test_ends_are_those_of_small_steps(jobs: list[tuple[Direction, int, int]]) -> None:
    """The same by walking through time in steps of a sixteenth: each head does a step's worth, or
    two thirds of it in company.
    """
    queues, now, made = CopyQueues(SLOWER), 0.0, list[tuple[Copy, Direction, float, float]]()
    for way, seconds, gap in jobs:
        now += gap
        queues.begin(now, now)
        made.append((queues.add(copy(way, seconds), now), way, float(seconds), now))
    left = [seconds for _, _, seconds, _ in made]
    ends, tick, time = [0.0] * len(made), 1 / 16, 0.0
    while any(seconds > 1e-9 for seconds in left):
        heads: dict[str, int] = {}
        for index, (_, way, _, start) in enumerate(made):
            if left[index] > 1e-9 and start <= time + 1e-9:
                heads.setdefault(way, index)
        speed = 1 / 1.5 if len(heads) == 2 else 1.0
        for index in heads.values():
            left[index] -= tick * speed
            ends[index] = time + tick
        time += tick
    for (one, *_), end in zip(made, ends, strict=True):
        assert queues.end_s(one) == pytest.approx(end, abs=3 * tick * len(made))


@given(JOBS)
def test_looking_does_not_change_what_comes(jobs: list[tuple[Direction, int, int]]) -> None:
    """Ends asked for after every copy are those that are asked for at last."""
    ends = []
    for often in (False, True):
        queues, now, made = CopyQueues(SLOWER), 0.0, list[Copy]()
        for way, seconds, gap in jobs:
            now += gap
            queues.begin(now, now)
            made.append(queues.add(copy(way, seconds), now))
            if often:
                for one in made:
                    queues.end_s(one)
        ends.append([queues.end_s(one) for one in made])
    assert ends[0] == pytest.approx(ends[1])


# -- a profile ------------------------------------------------------------------------------------


def test_a_profile_says_what_company_costs() -> None:
    """An H200 moved 62.6 GB/s one way and 46.7 GB/s each way at once."""
    profile = load_profile(RECORDED)
    cost = CalibratedCost(profile, load_shape("llama-3.1-8b"))
    assert cost.duplex_slows
    nbytes = 64 << 20
    alone_s, company_s = (cost.transfer_s(nbytes, 16, "h2d", there) for there in (False, True))
    rates = [profile.links[way].bytes_per_s for way in ("h2d", "both")]
    assert company_s - alone_s == pytest.approx(nbytes / rates[1] - nbytes / rates[0])
    one_way = {way: link for way, link in profile.links.items() if way != "both"}
    plain = CalibratedCost(replace(profile, links=one_way), load_shape("llama-3.1-8b"))
    assert not plain.duplex_slows
    assert plain.transfer_s(nbytes, 16, "h2d", True) == plain.transfer_s(nbytes, 16, "h2d")
    cost.set_link(100e9)
    share = rates[1] / max(profile.links[way].bytes_per_s for way in ("h2d", "d2h"))
    assert cost.links["both"].bytes_per_s == pytest.approx(share * 100e9)
