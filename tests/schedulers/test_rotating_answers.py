"""`rotating`: whose answer is given up (steps of one second, chunks of 16 tokens)."""

from __future__ import annotations

from array import array
from collections import abc
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from harness import FakeCost, make_engine
from rotating_runs import Run, arriving, job_with, promised, rotating, run, told

from superinfer.costs import Chunk
from superinfer.schedulers.rotating.answers import JUDGED_AT_ONCE, AnswersDue
from superinfer.schedulers.rotating.recent_steps import REMEMBERED, RecentSteps

LONG, FIRST, SECOND = 0, 1, 2


def three_answers(due_s: tuple[float, float, float], weight: float = 1.0, **settings: Any) -> Run:
    """A place for one: a prompt of 48 tokens takes it for 10 s, two of 16 for 8 s each."""
    requests = [
        arriving(LONG, 0.0, 48, **promised(e2el_s=due_s[LONG], weight=weight)),
        arriving(FIRST, 0.0, 16, **promised(e2el_s=due_s[FIRST])),
        arriving(SECOND, 0.0, 16, **promised(e2el_s=due_s[SECOND])),
    ]
    scheduler = told({"r0": 8, "r1": 8, "r2": 8}, max_num_seqs=1, rotation=False, **settings)
    return run(scheduler, requests, [8, 8, 8], 64)


def ends_s(played: Run) -> list[float]:
    return [played.tokens(row)[-1] for row in (LONG, FIRST, SECOND)]


DUE_S = 16.0, 17.0, 25.0
"""One after the other in this order they end at 10, 18 and 26 s: two of them late."""


def test_the_one_is_given_up_for_which_others_would_be_late() -> None:
    """Its prefill and its answer take 3 + 8 s, those of the others 1 + 8."""
    played = three_answers(DUE_S)
    assert [event[:3] for event in played.kinds("relegate")] == [(0.0, "relegate", "r0")]
    assert ends_s(played) == [26.0, 8.0, 16.0]


def test_nobody_is_given_up_without_relegation() -> None:
    assert ends_s(three_answers(DUE_S, relegation=False)) == [10.0, 18.0, 26.0]


def test_nobody_is_given_up_while_all_can_be_in_time() -> None:
    played = three_answers((17.0, 26.0, 36.0))
    assert ends_s(played) == [10.0, 18.0, 26.0] and not played.kinds("relegate")


def test_the_lighter_one_is_given_up() -> None:
    """11 s for three times the weight cost less than 9 s."""
    assert ends_s(three_answers(DUE_S, weight=3.0)) == [10.0, 26.0, 18.0]


def test_an_answer_that_is_given_up_is_no_late_first_token() -> None:
    """Only who was promised a first token is let in for being late."""
    for targets, late in (({"e2el_s": 9.0}, False), ({"ttft_s": 1.0, "e2el_s": 9.0}, True)):
        job = job_with(0, 8, **targets)
        assert not job.late
        job.relegated = True
        assert job.late == late


# -- alone ----------------------------------------------------------------------------------------


def answers(blocks: int = 64, cost: FakeCost | None = None, **settings: Any) -> AnswersDue:
    """Of a device with so many blocks of four tokens, its steps a second long."""
    scheduler = rotating(**settings)
    make_engine(scheduler, blocks, cost=cost or FakeCost())
    return AnswersDue(scheduler, scheduler._outlook)


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("targets", "begun", "judged"),
    [
        ({"e2el_s": 1.0}, False, True),
        ({"e2el_s": 1.0}, True, False),
        ({"ttft_s": 1.0, "e2el_s": 1.0}, False, False),
        ({"tpot_s": 1.0}, False, False),
        ({}, False, False),
    ],
)
def test_only_answers_that_have_not_begun_are_judged(
    targets: dict[str, Any], begun: bool, judged: bool
) -> None:
    """Beside one that has all the time, one that should have started before."""
    due = answers()
    first, other = job_with(0, 8, e2el_s=1e6), job_with(1, 8, **targets)
    first.start_by_s, other.start_by_s = 1e6, 0.5
    other.seq.output_tokens = int(begun)
    for job in (first, other):
        due.add(job)
    assert due.late(100.0, 1) == ([other] if judged else [])


@dataclass
class DearContext(FakeCost):
    """Chunks that cover more of their prompt take longer."""

    def step_s(self, chunks: abc.Sequence[Chunk], decodes: int, context_tokens: int) -> float:
        covered = sum(chunk.context_tokens for chunk in chunks)
        return super().step_s(chunks, decodes, context_tokens + covered)


@pytest.mark.interpreted
@pytest.mark.parametrize(("start_by_s", "late"), [(68.25, 0), (68.0, 1)])
def test_what_an_answer_takes_of_the_device(start_by_s: float, late: int) -> None:
    """One place. A prompt of 40 tokens is three budgets of 16, in the mean with half of it before
    them: 1 + 16 / 16 + 20 / 8 s each, and 1/4 s of the host. A token takes 1 + 44 / 8 + 1/4 s, with
    half of the answer of 8 behind the prompt. So the other one can start after 14.25 + 54 s.
    """
    cost = DearContext(per_chunk_token=2**-4, per_context_token=2**-3, host=2**-2)
    due = answers(cost=cost, lengths="none", max_num_seqs=1)
    for index, start_s in enumerate((0.0, start_by_s)):
        job = job_with(index, 40, e2el_s=100.0 + index, max_tokens=8)
        job.start_by_s = start_s
        due.add(job)
    assert len(due.late(0.0, 1)) == late


@pytest.mark.interpreted
def test_they_are_judged_when_somebody_comes_or_goes() -> None:
    """One that came twice counts once, one that left not at all, and who is alone is not judged."""
    due = answers()
    jobs = [job_with(index, 8, e2el_s=1.0) for index in range(3)]
    for job in jobs:
        job.start_by_s = 0.5
        due.add(job)
    due.add(jobs[0])
    assert due.late(100.0, 1) == jobs
    assert due.late(100.0, 1) == []
    assert due.late(100.0, 2) == jobs
    due.discard(jobs[1])
    due.discard(jobs[1])
    due.add(jobs[2])
    assert due.late(100.0, 2) == [jobs[0], jobs[2]]
    due.discard(jobs[0])
    assert due.late(100.0, 3) == []


@pytest.mark.interpreted
def test_no_more_are_judged_than_those_due_soonest() -> None:
    due = answers()
    jobs = [job_with(index, 8, e2el_s=1.0 + index) for index in range(JUDGED_AT_ONCE + 8)]
    for job in reversed(jobs):
        job.start_by_s = 0.5
        due.add(job)
    assert due.late(100.0, 1) == jobs[:JUDGED_AT_ONCE]


@pytest.mark.interpreted
@pytest.mark.parametrize(("blocks", "late"), [(64, 1), (6, 2)])
def test_a_token_costs_more_where_fewer_fit(blocks: int, late: int) -> None:
    """Prompts of 8 tokens, half of an answer of 8, so 12 held by each: of 256 tokens four places
    are filled, 24 hold two. So a request takes 1 + 8 / 4 or 1 + 8 / 2 s. All start by 6 s, so three
    can by 6 + 3 s, or two by 6 + 5.
    """
    due = answers(blocks, lengths="none", max_num_seqs=4)
    for index in range(4):
        job = job_with(index, 8, e2el_s=20.0, max_tokens=8)
        job.start_by_s = 6.0
        due.add(job)
    assert len(due.late(0.0, 1)) == late


@pytest.mark.interpreted
def test_answers_that_memory_is_not_expected_to_hold_come_one_at_a_time() -> None:
    """Half of an answer of 100 tokens is more than the 24 that there are. Each takes 1 + 100 s: of
    three that have to start by 110 s two can.
    """
    due = answers(6, lengths="none", max_num_seqs=4)
    for index in range(3):
        job = job_with(index, 8, e2el_s=300.0, max_tokens=100)
        job.start_by_s = 110.0
        due.add(job)
    assert len(due.late(0.0, 1)) == 1


# -- how long steps take --------------------------------------------------------------------------


def steps(now: float, *ends_s: float, size: int = 1) -> Any:
    """A decision at a time, after steps with these ends."""
    batch = SimpleNamespace(known_steps=len(ends_s), end_s=array("d", ends_s), size=size)
    return SimpleNamespace(now=now, batch=batch)


@pytest.mark.interpreted
def test_recent_steps_are_those_of_a_batch() -> None:
    """The first counts from the decision before it on; the pause before 50 s is none."""
    recent, share = RecentSteps(), 1 / REMEMBERED
    recent.look(steps(1.0))
    assert recent.mean_s == 0.0
    recent.look(steps(3.0, 3.0, size=0))
    assert recent.mean_s == 2.0 * share
    recent.look(steps(50.0, 3.0))
    recent.look(steps(54.0, 3.0, 52.0, 54.0))
    assert recent.mean_s == pytest.approx(2.0 * (1.0 - (1.0 - share) ** 3))


def test_steps_with_prompts_beside_them_count() -> None:
    """A step of 1 s takes 16 s more with a chunk of 16: answers take longer than decodes alone."""
    scheduler = rotating()
    requests = [arriving(0, 0.0, 4), arriving(1, 1.0, 64)]
    run(scheduler, requests, [40, 1], 200, cost=FakeCost(per_chunk_token=1.0))
    assert scheduler._outlook.recent_step_s > scheduler._outlook.step_s == 1.0
