"""`rotating`: what is owed by when, and who therefore goes first (blocks of four tokens, steps of
one second: iteration k starts at k - 1 s).
"""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from harness import FakeCost, iterations, request
from rotating_runs import arriving, promised, rotating, run, told

from superinfer.schedulers.rotating.deadlines import Job, credit_due_s, job_of, next_due_s
from superinfer.schedulers.rotating.lengths import NoLengths, OracleLengths
from superinfer.schedulers.rotating.outlook import Outlook
from superinfer.sequence import Sequence


def job(expected_tokens: int = 10, **targets: Any) -> Job:
    """A request of arrival 100 s whose first token came at 101 s."""
    seq = Sequence(request(0, 8, 0, 100.0, **promised(**targets)))
    seq.first_token_s = 101.0
    return job_of(seq, OracleLengths(lambda _: expected_tokens))


def test_due_times_of_strict_delivery() -> None:
    """The mean pace holds from the first token on, and no gap may exceed what is tolerated."""
    strict = job(ttft_s=4.0, tpot_s=2.0, max_stall_s=2.0)
    assert next_due_s(strict, 0, 0.0) == 104
    assert credit_due_s(strict, 5, 101.0) == 101 + 5 * 2
    assert next_due_s(strict, 5, 103.0) == 103 + 2  # the gap, not the credit
    assert next_due_s(strict, 5, 110.5) == 111  # the credit, not the gap


def test_due_times_of_paced_delivery() -> None:
    """The client starts to show the answer when the first token is due: all before is credit."""
    paced = job(ttft_s=4.0, tpot_s=2.0, delivery="paced")
    assert next_due_s(paced, 0, 0.0) == 104
    assert next_due_s(paced, 5, 103.0) == 104 + 5 * 2
    paced.seq.first_token_s = 107.0  # late: the client had to wait
    assert next_due_s(paced, 5, 109.0) == 107 + 5 * 2


def test_a_class_bounds_no_gap_but_the_one_that_it_states() -> None:
    assert next_due_s(job(tpot_s=2.0), 50, 103.0) == 101 + 50 * 2
    assert next_due_s(job(ttft_s=4.0), 50, 103.0) == inf
    assert next_due_s(job(tpot_s=2.0, max_stall_s=5.0), 50, 103.0) == 103 + 5
    assert next_due_s(job(tpot_s=2.0, max_stall_s=1.0), 50, 103.0) == 103 + 2  # never below it
    assert next_due_s(job(max_stall_s=5.0), 50, 103.0) == 103 + 5
    assert next_due_s(job(max_stall_s=5.0, delivery="paced"), 50, 103.0) == 103 + 5


def test_when_an_answer_is_due() -> None:
    """A floor of tokens/s on the expected tokens is a deadline as well; the sooner one counts."""
    assert job(e2el_s=30.0).end_due_s == 130
    assert job(min_tokens_per_s=0.5).end_due_s == 100 + 10 / 0.5
    assert job(min_tokens_per_s=0.5, e2el_s=15.0).end_due_s == 115
    assert job(ttft_s=1.0).end_due_s == inf


def test_what_is_owed() -> None:
    """A bound on gaps alone is something, too."""
    assert not job().owes
    for name in ("ttft_s", "tpot_s", "e2el_s", "min_tokens_per_s", "max_stall_s"):
        assert job(**{name: 30.0}).owes


def outlook(now: float, step: int, given_tokens: int, cost: FakeCost) -> Outlook:
    """At a time and a step of a batch of nobody, whoever is asked for having got so many tokens."""
    batch: Any = SimpleNamespace(
        step=step,
        known_steps=step,
        size=0,
        context_tokens=0,
        output_tokens=lambda seq: given_tokens,
    )
    found = Outlook(SimpleNamespace(cost=cost), NoLengths(), 16)  # type: ignore[arg-type]
    found.begin(SimpleNamespace(now=now, batch=batch))  # type: ignore[arg-type]
    return found


@pytest.mark.interpreted
@pytest.mark.parametrize(("first_s", "due_s"), [(3.0, 3.0 + 5 * 0.5), (None, 9.0 + 5 * 0.5)])
def test_a_stream_that_comes_back_owes_its_pace_since_its_first_token(
    first_s: float | None, due_s: float
) -> None:
    """Five tokens are given when it joins the batch at 9 s, at step 10."""
    stream = job(tpot_s=0.5)
    stream.seq.first_token_s = first_s
    base_s = outlook(9.0, 10, 5, FakeCost()).base_s(stream, 9.0)
    assert base_s + 10 * stream.pace_s == due_s


@pytest.mark.interpreted
def test_prompts_that_wait_lengthen_steps_in_the_mean() -> None:
    """A step takes 1 s, and 2 s with a chunk of 16. While an answer of 8 tokens is given, 32 prompt
    tokens are computed in two of its steps; more than it has steps for make each as long.
    """
    found = outlook(0.0, 0, 0, FakeCost(per_chunk_token=2**-4))
    assert found.likely_step_s(0, 8.0) == 1.0
    assert found.likely_step_s(32, 8.0) == 1.25
    assert found.likely_step_s(4, 0.5) == 1.25
    assert found.likely_step_s(1000, 8.0) == 2.0


@pytest.mark.interpreted
def test_a_prefill_takes_the_host_time_of_its_steps_too() -> None:
    """40 tokens in chunks of 16 are three steps."""
    assert outlook(0.0, 0, 0, FakeCost(step=1.0, host=0.25)).prefill_s(40) == 3 * 1.25


@pytest.mark.parametrize(("paced", "strict"), ["AB", "BA"])
def test_the_paced_stream_has_more_slack(paced: str, strict: str) -> None:
    """C (28 tokens, 7 blocks and one to go on) is urgent at iteration 4, and 6 of 12 are free.

    Both streams have 3 tokens at 3 s, the first from 1 s. Strict: the next is due by its pace at
    1 + 3 * 4 = 13, but no gap may exceed 4 s, so the slack is 4 s. Paced: due at 20 + 3 * 4 = 32,
    slack 29 s. So the paced one leaves, whoever it is; it comes back when the strict one has ended:
    before, the predicted peak (512 tokens each) does not fit, and its own slack is large.
    """
    targets = {"ttft_s": 20.0, "tpot_s": 4.0}
    lines = iterations(
        rotating(),
        {"A": (8, 6), "B": (8, 6), "C": (28, 1)},
        {"C": 4},
        blocks=12,
        requests={
            paced: promised(**targets, delivery="paced"),
            strict: promised(**targets),
            "C": promised(ttft_s=4.0),
        },
    )
    assert lines == [
        "A8 B8 used 4",
        "AB used 6",
        "AB used 6",
        f"C14 -{paced} {strict} used 10",
        f"C14 {strict} used 10",
        f"{strict} used 4",
        f"+{paced} used 3",
        f"{paced} used 3",
        f"{paced} used 3",
        f"{paced} used 4",
    ]


A_ALONE = ["A8 used 2", *["A used 3"] * 4]


def completion(**targets: Any) -> list[str]:
    """A runs long and owes nothing; B (since 1.5 s, 28 tokens and then 10) waits for it, because
    together they would outgrow the 12 blocks.
    """
    return iterations(
        told({"A": 40, "B": 10}),
        {"A": (8, 40), "B": (28, 10)},
        {"B": 3},
        blocks=12,
        requests={"B": promised(**targets)},
    )


def test_without_a_completion_deadline_a_request_waits() -> None:
    """B starts after A's prefill and 39 decodes."""
    lines = completion()
    assert lines[:5] == A_ALONE
    assert lines[40] == "B16 used 7"


def test_completion_deadline() -> None:
    """B is due at 33.3 s. Its prefill takes 2 steps beside A and its answer 10: with the margin of
    1.3 it has to start at 33.3 - 1.3 * 12 = 17.7 s, and is urgent two steps and 0.3 s before,
    at 15.4 s: iteration 17 starts at 16 s. There A holds 6 blocks and B needs 8, so A leaves.
    """
    lines = completion(e2el_s=31.8)
    assert lines[:5] == A_ALONE
    assert lines[15:18] == ["A used 6", "B15 -A used 7", "B13 used 7"]
    assert lines[18:27] == [f"B used {blocks}" for blocks in (8, 8, 8, 8, 9, 9, 9, 9, 10)]
    assert lines[27] == "+A used 6"


def test_age_does_not_put_a_deadline_back() -> None:
    """Two that are due 60 s after 0.25 and 0.5 s wait for the only place until 30 s, longer than
    the 20 s after which one is aged. But until their latest start, at 55 s, their deadlines count,
    so who came at 25 s does not pass by the second of them.
    """
    arrivals_s = (0.0, 0.25, 0.5, 25.0)
    requests = [arriving(0, 0.0, 4)]
    requests += [
        arriving(index, arrivals_s[index], 16, **promised(e2el_s=60.0)) for index in (1, 2, 3)
    ]
    scheduler = told(
        {"r0": 30, "r1": 2, "r2": 2, "r3": 2}, max_num_seqs=1, rotation=False, max_wait_s=20.0
    )
    played = run(scheduler, requests, [30, 2, 2, 2], 64)
    assert [played.tokens(row)[0] for row in range(4)] == [1.0, 31.0, 33.0, 35.0]
    assert "aged" not in scheduler.counters


def test_throughput_floor() -> None:
    """10 tokens at 0.46 tokens/s are due 21.7 s after 1.5 s: urgent at 23.2 - 15.6 - 2.3 = 5.3 s,
    so in iteration 7, at 6 s. There is room for both then; two steps later there is not.
    """
    lines = completion(min_tokens_per_s=0.46)
    assert lines[5:9] == ["A used 4", "B15 A used 11", "B13 A used 11", "-A B used 12"]
