"""SGLang: the ratio of new tokens, the reserve of running requests, and rounds of decode steps."""

from __future__ import annotations

import pytest
from harness import request
from hypothesis import given, settings
from hypothesis import strategies as st

from superinfer.heaps import FEWEST
from superinfer.schedulers.sglang.estimate import NewTokenRatio, Reserve
from superinfer.schedulers.sglang.rounds import Rounds
from superinfer.schedulers.sglang.rules import RULES
from superinfer.sequence import Sequence


@pytest.mark.parametrize("version", ["0.4.6", "0.4.1"])
def test_the_ratio_falls_linearly_over_600_steps(version: str) -> None:
    ratio = NewTokenRatio(RULES[version], 1.0)
    assert ratio.at(0) == 0.7
    assert ratio.at(300) == pytest.approx(0.7 - (0.7 - 0.098) / 2)
    assert ratio.at(600) == pytest.approx(0.098)
    assert ratio.at(5000) == pytest.approx(0.098)


def test_the_ratio_of_v032_falls_by_a_thousandth_a_step() -> None:
    ratio = NewTokenRatio(RULES["0.3.2"], 1.0)
    assert ratio.at(0) == 0.7
    assert ratio.at(250) == pytest.approx(0.45)
    assert ratio.at(700) == pytest.approx(0.1)


def test_conservativeness_scales_the_first_ratio_and_at_v032_the_last() -> None:
    new, old = (NewTokenRatio(RULES[version], 0.5) for version in ("0.4.6", "0.3.2"))
    assert (new.at(0), new.at(9999)) == pytest.approx((0.35, 0.049))
    assert (old.at(0), old.at(9999)) == pytest.approx((0.7, 0.05))
    assert NewTokenRatio(RULES["0.4.6"], 5.0).at(0) == 1.0


def test_a_retraction_sets_the_ratio_and_idleness_resets_it() -> None:
    ratio = NewTokenRatio(RULES["0.4.6"], 1.0)
    ratio.set(0.9, 50)
    assert ratio.at(50) == 0.9
    assert ratio.at(51) == pytest.approx(0.9 - 0.602 / 600)
    assert ratio.at(5000) == pytest.approx(0.098)
    ratio.reset(5000)
    assert ratio.at(5000) == 0.7


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    moves=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 30), st.booleans()), max_size=30),
    clip=st.integers(1, 12),
)
def test_the_reserve_equals_the_sum(moves: list[tuple[int, int, bool]], clip: int) -> None:
    """Steps pass, requests come with some tokens left, and some of them go."""
    reserve, step = Reserve(clip), 0
    ends: dict[Sequence, int] = {}
    for index, (steps, left, goes) in enumerate(moves):
        step += steps
        for seq in [seq for seq, end in ends.items() if end <= step]:
            reserve.discard(seq)
            del ends[seq]
        if goes and ends:
            gone = min(ends, key=lambda seq: ends[seq])
            reserve.discard(gone)
            del ends[gone]
            assert gone not in reserve
        seq = Sequence(request(index, 1, 0))
        reserve.add(seq, left, step)
        ends[seq] = step + left
        assert seq in reserve
        assert reserve.tokens(step) == sum(min(end - step, clip) for end in ends.values())


def test_the_reserve_forgets_who_left_long_before_the_limit() -> None:
    reserve, stays = Reserve(4), Sequence(request(0, 1, 0))
    reserve.add(stays, 100_000, 0)
    for index in range(1, 3 * FEWEST):
        seq = Sequence(request(index, 1, 0))
        reserve.add(seq, 50_000, index)
        reserve.discard(seq)
    assert len(reserve._crossing) <= FEWEST + 1
    assert reserve.tokens(99_998) == 2


def test_rounds_end_at_multiples_of_the_interval_or_with_a_finish() -> None:
    rounds = Rounds(stream=True, interval=8)
    rounds.open(0)
    assert [rounds.left(steps) for steps in (0, 5, 8)] == [8, 3, 0]
    assert not rounds.may_try(8)
    rounds.open(8)
    rounds.finished(9)
    assert rounds.left(9) == 0
    assert rounds.may_try(9)  # its only step finished somebody
    rounds.open(9)
    rounds.finished(11)
    assert rounds.left(11) == 0
    assert not rounds.may_try(11)
    rounds.arrived = True
    assert rounds.may_try(11)


def test_rounds_follow_one_another_unseen() -> None:
    rounds = Rounds(stream=False, interval=8)
    rounds.open(3)
    assert [rounds.left(steps) for steps in (4, 13, 14, 47)] == [9, 0, 9, 6]
    rounds.finished(50)
    assert rounds.left(50) == 3
    assert not rounds.may_try(53)
