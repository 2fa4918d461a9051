"""Targets for classes: what was reached by how many, room to it, readable numbers, who misses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import Job, build

from superinfer.lab.studies.targets import (
    ClassOutcome,
    best_for,
    outcomes,
    possible,
    propose,
    relax,
    rounded,
    with_margin,
)
from superinfer.metrics import RunMetrics, Window
from superinfer.request import SLO

STEPS = [float(second) for second in range(1, 200)]


def job(
    ttft_s: float, gap_s: int = 1, output: int = 5, arrival_s: float = 0.0, **more: object
) -> Job:
    """First token so long after the arrival, then one every `gap_s` seconds."""
    first_s = arrival_s + ttft_s
    gaps = [float(gap_s)] * (output - 1)
    finish_s = first_s + sum(gaps)
    return Job(arrival_s, 10, output, first_s, finish_s, gaps=gaps, **more)  # type: ignore[arg-type]


def outcome(jobs: list[Job], name: str = "chat") -> ClassOutcome:
    return outcomes(RunMetrics(build(jobs, STEPS)))[name]


# -- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "up", "down"),
    [
        (1145.8, 1200, 1100),
        (47.3, 48, 47),
        (48.0, 48, 48),
        (0.01234, 0.013, 0.012),
        (99.1, 100, 99),
    ],
)
def test_two_digits(value: float, up: float, down: float) -> None:
    assert rounded(value) == up
    assert rounded(value, up=False) == down
    assert rounded(0.0) == 0 and rounded(math.inf) == math.inf


@given(st.floats(1e-3, 1e7))
def test_rounding_stays_near(value: float) -> None:
    assert 0.9 * value <= rounded(value, up=False) <= value * (1 + 1e-6)
    assert value * (1 - 1e-6) <= rounded(value) <= 1.1 * value


def test_a_margin_goes_to_the_lenient_side() -> None:
    assert with_margin(954.8, "ttft_ms", 0.2) == 1200  # 1,145.8
    assert with_margin(41.0, "min_tokens_per_s", 0.2) == 34  # 34.2


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.floats(0.01, 1.0))
def test_so_many_reach_what_is_reached(numbers: list[int], share: float) -> None:
    """The best value that at least the share reaches: with the next better one it would be less."""
    values = np.array(numbers, float)
    found = best_for(values, "ttft_ms", share)
    assert found is not None and np.mean(values <= found) >= share - 1e-6
    assert np.mean(values < found) < share
    rate = best_for(values, "min_tokens_per_s", share)
    assert rate is not None and np.mean(values >= rate) >= share - 1e-6
    assert np.mean(values > rate) < share


# -- one class ------------------------------------------------------------------------------------


def test_values_of_a_class() -> None:
    """TTFT 1, 2 and 4 s, paces of 1, 1 and 3 s; one answer has one token and no pace; one request
    was turned away. Of five requests four had a first token within 8 s, so at most 80 % did.
    """
    jobs = [job(1), job(2), job(4, 3), job(8, output=1)]
    jobs.append(Job(0, 10, 0, finish_s=1, state="rejected"))
    found = outcome(jobs)
    assert found.requests == 5 and found.unfinished_share == pytest.approx(0.2)
    assert found.values("ttft_ms").tolist() == [1000, 2000, 4000, 8000, math.inf]
    tpot = found.values("tpot_ms")
    assert np.isnan(tpot[3]) and tpot[[0, 1, 2, 4]].tolist() == [1000, 1000, 3000, math.inf]
    assert found.values("e2el_ms").tolist() == [5000, 6000, 16000, 8000, math.inf]
    assert found.values("min_tokens_per_s") == pytest.approx([1, 5 / 6, 5 / 16, 1 / 8, 0])
    assert found.reached("ttft_ms", 0.8) == 8000
    assert found.reached("ttft_ms", 0.81) == math.inf
    assert found.reached("min_tokens_per_s", 0.8) == pytest.approx(1 / 8)
    assert found.stated() == {} and found.attainment() is None
    assert found.kept_share("ttft_ms") is None and found.miss("ttft_ms") is None


def test_misses_name_the_worst_and_not_those_that_never_finished() -> None:
    """Targets of 2 s for a first token: the 4 s and the 3 s are late. The one that was turned away
    counts as missed in what was kept, but no time can be named for it.
    """
    slo = SLO(ttft_s=2.0)
    jobs = [job(1, slo=slo), job(3, slo=slo), job(4, slo=slo, output=7), job(9)]
    jobs.append(Job(0, 10, 0, finish_s=1, state="rejected", slo=slo))
    found = outcome(jobs)
    miss = found.miss("ttft_ms")
    assert miss is not None
    assert (miss.share, miss.target, miss.value) == (0.5, 2000, 4000)
    assert (miss.worst.request_id, miss.output_tokens) == ("r2", 7)
    assert found.kept_share("ttft_ms") == 0.25 == found.attainment()
    assert found.stated() == {"ttft_ms": None}  # one of them has none


def test_a_floor_of_a_rate_is_missed_from_below() -> None:
    slo = SLO(min_tokens_per_s=0.9)
    found = outcome([job(1, slo=slo), job(2, slo=slo), job(4, 3, slo=slo)])
    miss = found.miss("min_tokens_per_s")
    assert miss is not None and miss.worst.request_id == "r2" and miss.share == pytest.approx(2 / 3)
    assert found.stated() == {"min_tokens_per_s": 0.9}


def test_only_the_window_counts() -> None:
    jobs = [job(1, arrival_s=at, group=name) for at, name in ((0, "a"), (10, "b"), (30, "b"))]
    found = outcomes(RunMetrics(build(jobs, STEPS), Window(5.0, 20.0)))
    assert {name: each.requests for name, each in found.items()} == {"b": 1}


def test_waits_that_grow() -> None:
    """As behind a queue that only gets longer; not where they are as long from the start."""
    growing = [job(1 + number / 10, arrival_s=number / 100) for number in range(90)]
    steady = [job(1 + number % 7, arrival_s=number / 100) for number in range(90)]
    assert outcome(growing).grows() and not outcome(steady).grows()
    assert not outcome(growing[:45]).grows(), "too few to tell"


# -- proposals ------------------------------------------------------------------------------------


def test_a_proposal_has_room_to_what_was_reached_and_to_the_floor() -> None:
    """95 % of 20 requests: the 19th has 19 s at the load and 2 s alone. Had it 30 s alone (a cache
    that was warm under load), that would count. Pace: 3 s either way.
    """
    loaded = outcome([job(number, 3) for number in range(1, 21)])
    alone = outcome([job(2, 3)] * 20)
    kinds = ("ttft_ms", "tpot_ms")
    assert propose(loaded, alone, kinds, 0.95, 0.2) == {"ttft_ms": 23000, "tpot_ms": 3600}
    slow = outcome([job(30, 3)] * 20)
    assert propose(loaded, slow, kinds, 0.95, 0.0) == {"ttft_ms": 30000, "tpot_ms": 3000}


def test_nothing_is_proposed_that_needs_requests_to_finish_which_do_not() -> None:
    jobs = [job(1)] * 8 + [Job(0, 10, 0, finish_s=1, state="failed")] * 2
    assert propose(outcome(jobs), outcome(jobs), ("ttft_ms", "min_tokens_per_s"), 0.95, 0.2) == {}
    assert set(propose(outcome(jobs), outcome(jobs), ("ttft_ms",), 0.8, 0.2)) == {"ttft_ms"}
    one = outcome([job(1, output=1)])
    assert propose(one, one, ("tpot_ms",), 0.95, 0.2) == {}
    assert not possible(0.0) and not possible(math.inf) and possible(0.1)


def test_a_target_that_is_missed_too_often_gives_way_alone() -> None:
    """TTFT of up to 20 s under a target of 10 s, which half keep; pace 1 s under one of 2 s."""
    slo = SLO(ttft_s=10.0, tpot_s=2.0)
    checked = outcome([job(number, slo=slo) for number in range(1, 21)])
    proposal = {"ttft_ms": 10000.0, "tpot_ms": 2000.0}
    relaxed = relax(proposal, checked, 0.95, 0.95, 0.2, math.inf)
    assert relaxed == {"ttft_ms": 23000, "tpot_ms": 2000}
    assert proposal == {"ttft_ms": 10000, "tpot_ms": 2000}


def test_targets_that_are_only_missed_together_all_give_way() -> None:
    """Each is kept by nine of ten, both of them by eight: a tenth more for either."""
    slo = SLO(ttft_s=5.0, tpot_s=2.0)
    jobs = [job(1, slo=slo)] * 8 + [job(6, slo=slo), job(1, 3, slo=slo)]
    checked = outcome(jobs)
    assert checked.attainment() == 0.8
    relaxed = relax({"ttft_ms": 5000.0, "tpot_ms": 2000.0}, checked, 0.9, 0.9, 0.0, math.inf)
    assert relaxed == {"ttft_ms": 5500, "tpot_ms": 2200}
