"""`rotating`: streams that fall behind so that first tokens are in time, and for how long."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from harness import FakeCost, request
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from property.workloads import SETTINGS
from rotating_runs import arriving, promised, run, told

from superinfer.schedulers.rotating.deadlines import job_of
from superinfer.schedulers.rotating.debts import LOOKED_AT, Debts
from superinfer.schedulers.rotating.lengths import NoLengths
from superinfer.sequence import Sequence

CHUNKY = FakeCost(step=2**-6, per_chunk_token=2**-10)
STEADY = FakeCost(step=2**-3, per_chunk_token=2**-11)


def chunks(
    answer: int,
    ttft_s: float | None,
    cost: FakeCost = CHUNKY,
    stall_s: float | None = None,
    delivery: str = "strict",
    **settings: Any,
) -> list[int]:
    """Chunks of 1000 tokens, due `ttft_s` after 1/32 s if at all, beside a stream of `answer`
    tokens that is owed one every 0.25 s and whose class may bound gaps.
    """
    stream = promised(ttft_s=1.0, tpot_s=0.25, max_stall_s=stall_s, delivery=delivery)
    requests = [
        arriving(0, 0.0, 4, **stream),
        arriving(1, 2**-5, 1000, **promised(ttft_s=ttft_s)),
    ]
    lengths = {"r0": answer, "r1": 1}
    scheduler = told(lengths, max_num_batched_tokens=4096, admission=False, **settings)
    played = run(scheduler, requests, [answer, 1], 2000, cost=cost)
    return [event[3] for event in played.kinds("prefill") if event[2] == "r1"]


PACED = [192] * 5 + [40]
"""95 % of 0.25 s less 1/64 s leave 227 tokens: three whole grains."""


def test_a_stream_falls_behind_where_it_can_make_up_for_it() -> None:
    """The prompt has 0.996 s: four paced steps of 0.203 s, so 768 tokens; in one step it takes
    0.992 s. The stream is then 0.5 s behind, and has 35 tokens for which 1/64 s each would do.
    """
    assert chunks(40, 1.0) == [1000]
    assert chunks(40, 1.0, debts=False) == PACED


def test_the_time_of_the_host_counts() -> None:
    """With 1/32 s of the host the one step would take 1.02 s, so the token is late either way: the
    pace is kept. 195 tokens do it, three whole grains again.
    """
    assert chunks(40, 1.0, cost=replace(CHUNKY, host=2**-5)) == PACED


def test_who_cannot_make_up_for_it_keeps_its_pace() -> None:
    """The stream's third and fourth token are its last: due in 0.484 and 0.734 s, and not there
    before 0.992 and 1.008 s. One is missed either way. They come in two paced steps.
    """
    assert chunks(4, 1.0) == [192, 192, 616]


def test_a_paced_stream_owes_every_token_in_time() -> None:
    """As the first, but the third token is due at 1 + 2 * 0.25 s: 1.46 s from then, and 0.992 s
    are within it, though not three times as much.
    """
    assert chunks(40, 1.0, delivery="paced") == [1000]
    requests = [
        arriving(0, 0.0, 4, **promised(ttft_s=2**-5, tpot_s=0.25, delivery="paced")),
        arriving(1, 2**-5, 1000, **promised(ttft_s=1.0)),
    ]
    scheduler = told({"r0": 40, "r1": 1}, max_num_batched_tokens=4096, admission=False)
    played = run(scheduler, requests, [40, 1], 2000, cost=CHUNKY)
    sizes = [event[3] for event in played.kinds("prefill") if event[2] == "r1"]
    assert sizes == PACED


def test_no_gap_is_longer_than_the_class_tolerates() -> None:
    """95 % of 0.5 s leave room for 448 tokens, with which the prompt takes 1.02 s and is late as
    well: so nothing is worth a longer step. With 1.1 s to spend two such steps and the rest do.
    """
    assert chunks(40, 1.0, stall_s=0.5) == PACED
    assert chunks(40, 1.0625, stall_s=2.0) == [1000]
    assert chunks(40, 1.0625, stall_s=0.5)[0] <= 448


@pytest.mark.parametrize(("gap_s", "size"), [(None, 448), (0.375, 320)])
def test_no_step_of_a_slower_pace_is_longer_than_another_class_tolerates(
    gap_s: float | None, size: int
) -> None:
    """The slower of two streams has 0.5 s for a step, and the faster one bears 0.375 s: 95 % of
    them leave room for 448 and 349 tokens. In 0.996 s there are two such steps, or three of 320
    tokens: the prompt of 880 is in time with either, and not with four of 192.
    """
    requests = [
        arriving(0, 0.0, 4, **promised(ttft_s=1.0, tpot_s=0.25, max_stall_s=gap_s)),
        arriving(1, 0.0, 4, **promised(ttft_s=1.0, tpot_s=0.5)),
        arriving(2, 2**-5, 880, **promised(ttft_s=1.0)),
    ]
    lengths = {"r0": 40, "r1": 40, "r2": 1}
    scheduler = told(lengths, max_num_batched_tokens=4096, admission=False, debts=False)
    played = run(scheduler, requests, [40, 40, 1], 2000, cost=CHUNKY)
    assert next(event[3] for event in played.kinds("prefill") if event[2] == "r2") == size


def test_who_is_late_anyway_lengthens_no_step() -> None:
    """Of two prompts of 800 tokens, due in 1 s, one can be in time: in three steps of 320 tokens,
    0.984 s, but not in paced ones. A stream of 8 tokens can make up for three such steps; it could
    not for the five in which both would come.
    """
    requests = [
        arriving(0, 0.0, 4, **promised(ttft_s=1.0, tpot_s=0.25)),
        *(arriving(row, 2**-5, 800, **promised(ttft_s=1.0)) for row in (1, 2)),
    ]
    lengths = {"r0": 8, "r1": 1, "r2": 1}
    scheduler = told(lengths, max_num_batched_tokens=4096, admission=False)
    played = run(scheduler, requests, [8, 1, 1], 2000, cost=CHUNKY)
    first_s = min(played.tokens(row)[0] for row in (1, 2))
    assert first_s <= 2**-5 + 1.0


def test_without_debts_a_slower_pace_is_the_longest_step() -> None:
    """Of 1000 tokens due in 1 s 1000 would be in time, but no stream's pace allows more than the
    448 of 0.5 s, in which three steps take 1.02 s: late as well, so the faster pace is kept.
    """
    requests = [
        arriving(0, 0.0, 4, **promised(ttft_s=1.0, tpot_s=0.25)),
        arriving(1, 0.0, 4, **promised(ttft_s=1.0, tpot_s=0.5)),
        arriving(2, 2**-5, 1000, **promised(ttft_s=1.0)),
    ]
    lengths = {"r0": 40, "r1": 40, "r2": 1}
    for debts, sizes in ((False, PACED), (True, [1000])):
        scheduler = told(lengths, max_num_batched_tokens=4096, admission=False, debts=debts)
        played = run(scheduler, requests, [40, 40, 1], 2000, cost=CHUNKY)
        assert [event[3] for event in played.kinds("prefill") if event[2] == "r2"] == sizes


def test_a_prompt_that_is_in_time_anyway_takes_nothing() -> None:
    assert chunks(40, 2.0) == PACED


def test_a_longer_step_that_pays_is_taken_before_anybody_is_late() -> None:
    """A step of 1/8 s and 1/2048 s a token. 192 tokens keep the pace at 878 a second. In 320 the
    rate is 30 % higher and the step 29 % longer, in 448 it is 48 and 57 %.
    """
    assert chunks(40, 9.0, STEADY) == [320] * 3 + [40]
    assert chunks(40, 9.0, STEADY, debts=False) == PACED


def test_no_step_is_longer_for_a_prompt_without_a_deadline() -> None:
    """As the one before, but nobody waits for the first token, before it has begun or after."""
    assert chunks(40, None, STEADY) == PACED


def test_many_streams_are_not_given_for_fewer_first_tokens() -> None:
    """A step of 13/64 s and 1/8192 s a token: 256 tokens keep the pace of 100 short streams. 32
    prompts of 192 tokens, due in 2.5 s, would take 24 such steps. All at once would take 0.95 s,
    and no stream could make up for that. The streams are through before, and then the rest fits.
    """
    requests = [arriving(row, 0.0, 4, **promised(ttft_s=10.0, tpot_s=0.25)) for row in range(100)]
    requests += [arriving(100 + row, 0.5, 192, **promised(ttft_s=2.5)) for row in range(32)]
    answers = [8] * 100 + [1] * 32
    lengths = {f"r{row}": tokens for row, tokens in enumerate(answers)}
    scheduler = told(lengths, max_num_batched_tokens=8192, max_num_seqs=200, admission=False)
    cost = FakeCost(step=13 / 64, per_chunk_token=2**-13)
    played = run(scheduler, requests, answers, 20000, cost=cost)
    tokens = [played.tokens(row) for row in range(132)]
    assert all(times[-1] - times[0] <= 7 * 0.25 for times in tokens[:100])
    assert all(times[0] - 0.5 <= 2.5 for times in tokens[100:])


def test_what_is_cached_is_not_counted_as_work() -> None:
    """B's 40 tokens, 36 of them A's, are due in 3 s, as are C's 32: with chunks of 16 there are 3
    steps for 4 + 32 tokens. Counted whole, B would be the longest and given up.
    """
    shared = {"hash_ids": (1, 2, 3, 4, 5, 6, 7, 8, 9, 10), "hash_block_tokens": 4}
    requests = [
        arriving(0, 0.0, 40, **shared),
        arriving(1, 8.0, 40, **shared, **promised(ttft_s=3.5)),
        arriving(2, 8.0, 32, **promised(ttft_s=3.5)),
    ]
    scheduler = told({"r0": 1, "r1": 1, "r2": 1})
    played = run(scheduler, requests, [1, 1, 1], 64, prefix_caching=True)
    assert played.kinds("relegate") == []
    assert [played.tokens(row)[0] for row in (1, 2)] == [9.0, 11.0]


@pytest.mark.parametrize(("gap_s", "size"), [(None, 4000), (0.5, 448)])
def test_a_pace_that_all_have_lost_bounds_no_step(gap_s: float | None, size: int) -> None:
    """A stream that is owed a token every 1/64 s gets one every 1/32 s at best. After 32 steps it
    is 0.5 s behind for good, and the only bound left is the gap that its class tolerates: 95 % of
    0.5 s leave room for 448 tokens. The prompt of 4000 is due in 5 s; in grains it takes 5.9 s.
    """
    cost = FakeCost(step=2**-5, per_chunk_token=2**-10)
    requests = [
        arriving(0, 0.0, 4, **promised(ttft_s=1.0, tpot_s=2**-6, max_stall_s=gap_s)),
        arriving(1, 1.0, 4000, **promised(ttft_s=5.0)),
    ]
    for debts, first in ((True, size), (False, 64)):
        scheduler = told({"r0": 200, "r1": 1}, max_num_batched_tokens=4097, debts=debts)
        played = run(scheduler, requests, [200, 1], 2000, cost=cost)
        sizes = [event[3] for event in played.kinds("prefill") if event[2] == "r1"]
        assert sizes[0] == first
        assert (played.tokens(1)[0] <= 6.0) == debts


@pytest.mark.parametrize(("pace_s", "size"), [(2**-6, 4000), (2**-4, 64)])
def test_a_prompt_in_no_hurry_beside_a_pace_that_no_chunk_keeps(pace_s: float, size: int) -> None:
    """As the one before. A stream that is owed a token every 1/64 s has lost its pace. One that is
    owed one every 1/16 s is ahead of it; a step of a grain takes 3/32 s, and none takes more.
    """
    cost = FakeCost(step=2**-5, per_chunk_token=2**-10)
    stream = promised(ttft_s=1.0, tpot_s=pace_s)
    requests = [arriving(0, 0.0, 4, **stream), arriving(1, 1.0, 4000)]
    scheduler = told({"r0": 200, "r1": 1}, max_num_batched_tokens=4097)
    played = run(scheduler, requests, [200, 1], 2000, cost=cost)
    sizes = [event[3] for event in played.kinds("prefill") if event[2] == "r1"]
    assert sizes[0] == size


def test_a_pace_that_no_step_keeps_is_not_the_one_that_counts() -> None:
    """A step takes 1/64 s, and one of two streams is owed a token as often. The prompt in no hurry
    gets the 448 tokens that 0.5 s leave room for, and no grains.
    """
    requests = [
        arriving(0, 0.0, 4, **promised(ttft_s=1.0, tpot_s=2**-6)),
        arriving(1, 0.0, 4, **promised(ttft_s=1.0, tpot_s=0.5)),
        arriving(2, 2**-5, 880),
    ]
    lengths = {"r0": 40, "r1": 40, "r2": 1}
    scheduler = told(lengths, max_num_batched_tokens=4096, admission=False, debts=False)
    played = run(scheduler, requests, [40, 40, 1], 2000, cost=CHUNKY)
    assert next(event[3] for event in played.kinds("prefill") if event[2] == "r2") == 448


def test_the_gap_of_a_class_bounds_no_step_once_its_stream_has_ended() -> None:
    """95 % of 0.25 s leave room for 192 tokens, those of the other stream's 0.5 s for 448."""
    requests = [
        arriving(0, 0.0, 4, **promised(ttft_s=1.0, tpot_s=0.25, max_stall_s=0.25)),
        arriving(1, 0.0, 4, **promised(ttft_s=1.0, tpot_s=0.5)),
        arriving(2, 2**-5, 192),
        arriving(3, 1.0, 880),
    ]
    lengths = {"r0": 8, "r1": 200, "r2": 1, "r3": 1}
    scheduler = told(lengths, max_num_batched_tokens=4096, admission=False)
    played = run(scheduler, requests, [8, 200, 1, 1], 2000, cost=CHUNKY)
    assert [event[3] for event in played.kinds("prefill")][-3:] == [192, 448, 432]


def test_who_has_lost_a_pace_does_not_hold_others_to_it() -> None:
    """Two weighty prompts of 500 tokens are in time in one step, and a stream of 5 tokens, which
    is owed one every 0.25 s, is lost. It has two to come when a prompt in no hurry is begun: its
    chunks are those of the two new streams, 448 of 0.5 s, and not the 192 of a pace that is lost.
    """
    soon = promised(ttft_s=1.0, tpot_s=0.5, weight=4.0)
    requests = [
        arriving(0, 0.0, 4, **promised(ttft_s=1.0, tpot_s=0.25)),
        arriving(1, 2**-5, 500, **soon),
        arriving(2, 2**-5, 500, **soon),
        arriving(3, 0.5, 1600, **promised(ttft_s=30.0)),
    ]
    answers = [5, 40, 40, 1]
    lengths = {f"r{row}": tokens for row, tokens in enumerate(answers)}
    scheduler = told(lengths, max_num_batched_tokens=4096, admission=False)
    played = run(scheduler, requests, answers, 4000, cost=CHUNKY)
    sizes = [event[3] for event in played.kinds("prefill")]
    assert sizes[1:4] == [500, 500, 448]
    assert len(played.tokens(0)) == 5 and played.tokens(0)[3] > played.tokens(1)[0]


# -- what streams have to spare -------------------------------------------------------------------


@dataclass
class Steps:
    """As much of an outlook, a draft and a batch as `Debts` looks at."""

    lengths: dict[int, int]
    now: float = 0.0
    step: int = 0
    joined: dict[int, int] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)
    """Whose answers were estimated, in order."""

    @property
    def draft(self) -> Steps:
        return self

    @property
    def batch(self) -> Steps:
        return self

    def output_tokens(self, seq: Sequence) -> int:
        return 1 + self.step - self.joined[seq.request.index]

    def tokens_left(self, job: Any, given_tokens: int, quantile: float) -> int:
        self.asked.append(job.seq.request.index)
        return max(1, self.lengths[job.seq.request.index] - given_tokens)


STREAMS = st.lists(
    st.tuples(st.integers(2, 60), st.sampled_from([0.25, 0.5, 1.0]), st.booleans()),
    min_size=1,
    max_size=LOOKED_AT,
)


@pytest.mark.interpreted
@hypothesis_settings(SETTINGS, max_examples=100)
@given(streams=STREAMS, slices=st.lists(st.integers(1, 9), max_size=8), data=st.data())
def test_who_is_lost(
    streams: list[tuple[int, float, bool]], slices: list[int], data: st.DataObject
) -> None:
    """Against every stream looked at by itself, after slices of steps of 1/4 s beside which some
    streams come and others end.
    """
    steps = Steps({index: tokens for index, (tokens, _, _) in enumerate(streams)})
    debts: Any = Debts(steps, 1.0)  # type: ignore[arg-type]
    waiting = list(enumerate(streams))
    here: dict[int, Any] = {}
    for slice_steps in [*slices, 0]:
        for index, (_, pace_s, paced) in waiting[: data.draw(st.integers(0, len(waiting)))]:
            targets = promised(tpot_s=pace_s, delivery="paced" if paced else "strict")
            job: Any = job_of(Sequence(request(index, 4, 0, **targets)), NoLengths())
            job.base_s = steps.now + pace_s - steps.step * pace_s
            steps.joined[index] = steps.step
            here[index] = job
            debts.add(job)
            waiting.remove((index, streams[index]))
        debts.begin(0.25)
        more, step_s = data.draw(st.integers(1, 20)), data.draw(st.sampled_from([0.25, 0.5, 2.0]))
        lost = 0
        for index, job in here.items():
            left = 1 if job.paced else steps.lengths[index] - steps.output_tokens(job.seq)
            due_s = job.base_s + steps.step * job.pace_s + (left - 1) * job.pace_s
            spare_s = due_s - steps.now - left * 0.25
            lost += 0 <= spare_s < min(more, left) * (step_s - 0.25)
        assert debts.lost(more, step_s) == lost
        steps.step += slice_steps
        steps.now += 0.25 * slice_steps
        for index, job in list(here.items()):
            if steps.output_tokens(job.seq) >= steps.lengths[index]:
                debts.remove(job)
                del here[index]


@pytest.mark.interpreted
def test_those_looked_at_speak_for_the_others() -> None:
    """50 streams with 9 tokens to come at 1/2 s each, in steps of 1/4 s, have 2.25 s to spare. Ten
    more have lost their pace already.
    """
    steps = Steps(dict.fromkeys(range(60), 10), joined=dict.fromkeys(range(60), 0))
    debts: Any = Debts(steps, 1.0)  # type: ignore[arg-type]
    for index in range(60):
        job = job_of(Sequence(request(index, 4, 0, **promised(tpot_s=0.5))), NoLengths())
        job.base_s = 0.5 if index < 50 else -2.0
        debts.add(job)
    debts.begin(0.25)
    assert (debts.lost(9, 0.5), debts.lost(9, 0.53)) == (0.0, 50.0)


@pytest.mark.interpreted
def test_the_shortest_gap_counts() -> None:
    debts: Any = Debts(Steps({}), 1.0)  # type: ignore[arg-type]
    jobs = [
        job_of(Sequence(request(index, 4, 0, **promised(tpot_s=0.5, **more))), NoLengths())
        for index, more in enumerate([{}, {"max_stall_s": 2.0}, {"max_stall_s": 0.1}])
    ]
    expected = [float("inf"), 2.0, 0.5]  # no gap is shorter than the pace
    for job, gap_s in zip(jobs, expected, strict=True):
        debts.add(job)
        assert debts.longest_gap_s == gap_s
    for job, gap_s in zip(reversed(jobs), [2.0, float("inf"), float("inf")], strict=True):
        debts.remove(job)
        assert debts.longest_gap_s == gap_s


@pytest.mark.interpreted
def test_who_has_nothing_to_spare() -> None:
    """Of two streams with 9 tokens to come at 1/2 s each, in steps of 1/4 s, one is due in 1/2 s:
    it has 0.5 + 8 * 0.5 - 9 * 0.25 s to spare. The other was due 2 s earlier.
    """
    steps = Steps({0: 10, 1: 10}, joined={0: 0, 1: 0})
    debts: Any = Debts(steps, 1.0)  # type: ignore[arg-type]
    jobs = [job_of(Sequence(request(i, 4, 0, **promised(tpot_s=0.5))), NoLengths()) for i in (0, 1)]
    for job, due_s in zip(jobs, [0.5, -2.0], strict=True):
        job.base_s = due_s
        debts.add(job)
    debts.begin(0.25)
    assert debts.hopeless_share == 0.5
    assert (debts.lost(9, 0.5), debts.lost(9, 0.53)) == (0.0, 1.0)  # 2.25 and 2.52 of 2.25 s
    debts.remove(jobs[1])
    assert debts.hopeless_share == 0.0


@pytest.mark.interpreted
def test_a_long_step_takes_from_all() -> None:
    """Three streams have 2.25 s to spare. A step of 4 s where 1/4 s was expected takes 3.75 s."""
    steps = Steps(dict.fromkeys(range(3), 10), joined=dict.fromkeys(range(3), 0))
    debts: Any = Debts(steps, 1.0)  # type: ignore[arg-type]
    for index in range(3):
        job = job_of(Sequence(request(index, 4, 0, **promised(tpot_s=0.5))), NoLengths())
        job.base_s = 0.5
        debts.add(job)
    debts.begin(0.25)
    assert debts.hopeless_share == 0.0
    steps.step, steps.now = 1, 4.0
    debts.begin(0.25)
    assert debts.hopeless_share == 1.0


@pytest.mark.interpreted
def test_a_pace_is_kept_while_one_stream_can_keep_it() -> None:
    """As the one before; and a third stream, owed a token every second, is 9 s late with 9 to come.
    A pace goes with the last who can keep it.
    """
    steps = Steps(dict.fromkeys(range(3), 10), joined=dict.fromkeys(range(3), 0))
    debts: Any = Debts(steps, 1.0)  # type: ignore[arg-type]
    dues = [(0.5, 0.5), (0.5, -2.0), (1.0, -9.0)]
    jobs = []
    for index, (pace_s, due_s) in enumerate(dues):
        job = job_of(Sequence(request(index, 4, 0, **promised(tpot_s=pace_s))), NoLengths())
        job.base_s = due_s
        jobs.append(job)
        debts.add(job)
    debts.begin(0.25)
    assert debts.kept_paces_s == [0.5]
    debts.remove(jobs[0])
    assert debts.kept_paces_s == [] and debts.hopeless_share == 1.0


@pytest.mark.interpreted
def test_an_answer_that_goes_on_is_looked_at_again() -> None:
    """Due 2 s ago and expected to give one more token, a stream has nothing to spare. It gives
    more: with 97 to come, a quarter of a second earlier than owed each, it has.
    """
    steps = Steps({0: 2}, joined={0: 0})
    debts: Any = Debts(steps, 1.0)  # type: ignore[arg-type]
    job = job_of(Sequence(request(0, 4, 0, **promised(tpot_s=0.5))), NoLengths())
    job.base_s = -2.0
    debts.add(job)
    debts.begin(0.25)
    assert debts.hopeless_share == 1.0
    steps.lengths[0], steps.step, steps.now = 100, 2, 0.5
    debts.begin(0.25)
    assert debts.hopeless_share == 0.0


@pytest.mark.interpreted
def test_an_answer_is_estimated_anew_when_half_of_what_was_expected_has_come() -> None:
    """Nine tokens are expected of three streams at step 0. Each decision looks at one of them,
    in turns: the first, the second and, at step 5, the third. Of the first four are then left,
    fewer than have come.
    """
    steps = Steps(dict.fromkeys(range(3), 10), joined=dict.fromkeys(range(3), 0))
    debts: Any = Debts(steps, 1.0)  # type: ignore[arg-type]
    for index in range(3):
        job = job_of(Sequence(request(index, 4, 0, **promised(tpot_s=0.5))), NoLengths())
        job.base_s = 0.5
        debts.add(job)
    asked: list[list[int]] = []
    for steps.step in (0, 4, 5):
        steps.now, steps.asked = 0.25 * steps.step, []
        debts.begin(0.25)
        assert debts.lost(9, 1.0) == 3.0
        asked.append(steps.asked)
    assert asked == [[0, 1, 2, 0], [1], [2, 0]]
