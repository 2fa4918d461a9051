"""`rotating`: who is let in, by the blocks and the pace that everybody will need."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from harness import FakeCost, iterations, request
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from property.workloads import SETTINGS
from rotating_runs import arriving, promised, rotating, run, told

from superinfer.schedulers.base import Machine
from superinfer.schedulers.rotating.admission import Admission
from superinfer.schedulers.rotating.deadlines import Job, job_of
from superinfer.schedulers.rotating.entrance import need_blocks
from superinfer.schedulers.rotating.lengths import NoLengths, OracleLengths
from superinfer.sequence import Sequence

BLOCK = 4


class Held(NamedTuple):
    """One request on the device, or the one that wants to come in."""

    tokens: int
    left: int
    """Output tokens to come."""
    decoding: bool


class Bench:
    """`Admission` over given requests, the last of which is the new one."""

    def __init__(self, helds: list[Held], total_blocks: int) -> None:
        machine = Machine(total_blocks, BLOCK, 1 << 20, 1, FakeCost(), False)
        lefts: dict[int, int] = {}
        self.admission = Admission(machine, OracleLengths(lambda req: lefts[req.index]), 0.98)
        self.lengths: dict[Sequence, int] = {}
        self.limit = int(0.98 * total_blocks) * BLOCK
        blocks = sum(-(-held.tokens // BLOCK) for held in helds[:-1])
        self.draft: Any = SimpleNamespace(
            batch=SimpleNamespace(
                step=7, length=self.lengths.__getitem__, output_tokens=lambda seq: 0
            ),
            pool=SimpleNamespace(referenced=blocks, total=total_blocks, lent=0),
            blocks_for=lambda tokens: -(-tokens // BLOCK),
        )
        self.jobs = [self._job(index, held, lefts) for index, held in enumerate(helds)]

    def _job(self, index: int, held: Held, lefts: dict[int, int]) -> Job:
        lefts[index] = held.left
        job = job_of(Sequence(request(index, held.tokens, 0)), NoLengths())
        job.ticket = index
        if held.decoding:
            self.lengths[job.seq] = held.tokens
            self.admission.joined(job, self.draft)
            job.decoding = True
        return job

    def leaves(self, place: int) -> None:
        """One that decodes has ended."""
        job = self.jobs.pop(place)
        self.admission.left(job)
        self.draft.pool.referenced -= -(-self.lengths[job.seq] // BLOCK)

    def fits(self, version: int = 1) -> bool:
        *here, new = self.jobs
        decoding = [job for job in here if job.decoding]
        prefilling = [job for job in here if not job.decoding]
        return self.admission.fits(self.draft, new, decoding, prefilling, version)


def peak(helds: list[Held], rounding: int) -> int:
    """Step by step: everybody alive has one token more, whoever has all of them leaves after it."""
    highest = 0
    for step in range(1, max(held.left for held in helds) + 1):
        alive = [held for held in helds if held.left >= step]
        highest = max(highest, sum(held.tokens + rounding + step for held in alive))
    return highest


HELD = st.builds(Held, st.integers(1, 60), st.integers(1, 60), st.booleans())
NEW = st.builds(Held, st.integers(1, 60), st.integers(1, 60), st.just(False))


@pytest.mark.interpreted
@hypothesis_settings(SETTINGS, max_examples=200)
@given(
    here=st.lists(HELD, max_size=7),
    new=NEW,
    total_blocks=st.integers(8, 120),
    later=st.sampled_from([0, 5, 30, 100]),
    gone=st.sets(st.integers(0, 6)),
)
def test_predicted_peak_against_a_simulation(
    here: list[Held], new: Held, total_blocks: int, later: int, gone: set[int]
) -> None:
    """A request is let in if the peak fits, half a block added for each; the short cut (all at
    their full lengths at once) never lets in what the peak of tokens alone would not. So it is
    `later`, too, when answers are longer than expected and some of them have ended.
    """
    bench = Bench([*here, new], total_blocks)
    bench.draft.batch.step += later
    bench.fits(version=0)
    left = [
        held._replace(left=max(1, held.left - later)) if held.decoding else held for held in here
    ]
    for place in sorted(gone, reverse=True):
        if place < len(left) and left[place].decoding:
            bench.leaves(place)
            del left[place]
    if peak([*left, new], BLOCK // 2) <= bench.limit:
        assert bench.fits()
    if peak([*left, new], 0) > bench.limit:
        assert not bench.fits()


@pytest.mark.interpreted
def test_a_refusal_stands_until_somebody_comes_or_goes() -> None:
    """As everybody grows by a token a step, only `version` can change the answer."""
    bench = Bench([Held(40, 40, True), Held(40, 40, False)], 30)
    assert not bench.fits(version=1)
    bench.admission.left(bench.jobs[0])
    alone = [job for job in bench.jobs if not job.decoding]
    bench.draft.pool.referenced = 0
    assert not bench.admission.fits(bench.draft, alone[0], [], [], 1)
    assert bench.admission.fits(bench.draft, alone[0], [], [], 2)


@pytest.mark.interpreted
def test_who_comes_back_counts_with_all_that_it_holds() -> None:
    """A prompt of 8 tokens with 60 given since: 68 and 40 to come beside 8 and 40 exceed 116, of
    which a new prompt of 8 would not come near.
    """
    bench = Bench([Held(8, 40, True), Held(8, 40, False)], 30)
    assert bench.fits(version=1)
    bench.jobs[1].seq.computed_tokens = 68
    assert not bench.fits(version=2)
    assert need_blocks(bench.draft, bench.jobs[1]) == 68 // 4 + 1


@pytest.mark.interpreted
@pytest.mark.parametrize(("tokens", "fits"), [(59, True), (60, False)])
def test_who_goes_on_for_longer_than_expected_is_still_there(tokens: int, fits: bool) -> None:
    """At step 27 its answer is 16 tokens longer than expected: it is taken to end with one token
    more, as the new one is. With half a block for each they have 62 and 54 then, 116 in all.
    """
    bench = Bench([Held(tokens, 4, True), Held(51, 1, False)], 30)
    bench.draft.batch.step = 27
    assert bench.fits() == fits
    bench.draft.pool.referenced = 30  # all: the short cut does not decide
    assert bench.fits(version=2) == fits


@pytest.mark.interpreted
def test_who_has_left_late_is_not_counted_any_more() -> None:
    """98 % of five blocks are 16 tokens. Two blocks, a token to come for each of two and another
    block for the one that decodes are 14.
    """
    bench = Bench([Held(4, 1, True), Held(4, 1, True), Held(4, 1, False)], 5)
    bench.draft.batch.step = 27
    assert not bench.fits(version=0)
    bench.leaves(0)
    assert bench.admission._fits_even_together(bench.draft, bench.jobs[-1], ())


A_ALONE = ["A16 used 5", "A4 used 5", "A used 6"]


@pytest.mark.parametrize("on", [True, False])
def test_admission_by_predicted_peak(on: bool) -> None:
    """B (12 tokens and 6 to come) would fit now: 4 of 10 blocks are free. But when it has its 6, A
    has 23 + 6 tokens, with 18 and two half blocks 51: more than the 36 of 98 % of 10 blocks. So B
    waits for A. Without admission both run until, at iteration 7, the blocks run out; A, with as
    much slack and joined first, is the one that has to leave.
    """
    lines = iterations(
        told({"A": 14, "B": 6}, admission=on, rotation=False),
        {"A": (20, 14), "B": (12, 6)},
        {"B": 4},
        blocks=10,
    )
    assert lines[:3] == A_ALONE
    if on:
        assert lines[3:15] == [f"A used {6 + (place + 1) // 4}" for place in range(12)]
        assert lines[15:17] == ["B12 used 3", "B used 4"]
    else:
        assert lines[3:7] == ["B12 A used 9", "AB used 10", "AB used 10", "-B A used 7"]


def test_who_was_refused_comes_in_when_another_has_left() -> None:
    """C (8 tokens and 6 to come) would fit at iteration 3: 4 of 10 blocks are free. But when it has
    its 6, A has 5 + 6 tokens, and B 16 when it ends: with three half blocks more than 36. Once B is
    gone C comes in, long before A ends.
    """
    lines = iterations(
        told({"A": 20, "B": 5, "C": 6}, rotation=False),
        {"A": (4, 20), "B": (12, 5), "C": (8, 6)},
        {"C": 3},
        blocks=10,
    )
    assert lines[:6] == ["A4 B12 used 4", *["AB used 6"] * 4, "C8 A used 5"]


@pytest.mark.parametrize(("ttft_s", "line"), [(0.25, "B12 A used 9"), (None, "A used 6")])
def test_who_is_late_for_a_first_token_does_not_wait_for_the_peak(
    ttft_s: float | None, line: str
) -> None:
    """D is urgent and leaves B no room until it has ended, after iteration 5. B is late by then and
    comes in though it will not fit beside all of A; promised nothing, it waits for A.
    """
    lines = iterations(
        told({"A": 14, "D": 2, "B": 6}, rotation=False),
        {"A": (20, 14), "D": (8, 2), "B": (12, 6)},
        {"D": 4, "B": 4},
        blocks=10,
        requests={"D": promised(ttft_s=2.0), "B": promised(ttft_s=ttft_s)},
    )
    assert lines[:6] == [*A_ALONE, "D8 A used 8", "AD used 9", line]


@pytest.mark.parametrize("on", [True, False])
def test_admission_by_rate(on: bool) -> None:
    """A is owed a token every 1.5 s and gets one a second. B, owed as much, could take its place in
    time, but together they are owed 1.33 tokens/s, more than 90 % of one a second: B waits.
    """
    stream = promised(ttft_s=4.0, tpot_s=1.5)
    lines = iterations(
        told({"A": 30, "B": 4}, admission=on),
        {"A": (20, 30), "B": (32, 4)},
        {"B": 5},
        blocks=13,
        requests={"A": stream, "B": stream},
    )
    assert lines[:4] == [*A_ALONE, "A used 6"]
    assert lines[4] == ("A used 6" if on else "B15 -A used 8")


@pytest.mark.interpreted
def test_a_stream_is_owed_its_pace_until_it_ends() -> None:
    """Being rotated does not change what is owed; the same load is refused and taken afterwards."""
    bench = Bench([Held(8, 8, True), Held(8, 8, False)], 30)
    admission, draft = bench.admission, SimpleNamespace(batch=SimpleNamespace(size=1))
    first, second = bench.jobs
    first.pace_s = second.pace_s = 1.5
    assert not admission.too_fast(first, draft, 1.0)  # type: ignore[arg-type]
    admission.begin_stream(first)
    admission.begin_stream(first)
    assert not admission.too_fast(first, draft, 1.0)  # type: ignore[arg-type]
    assert admission.too_fast(second, draft, 1.0)  # type: ignore[arg-type]
    assert not admission.too_fast(second, draft, 0.5)  # type: ignore[arg-type]
    unpaced = bench._job(2, Held(8, 8, False), {})
    assert not admission.too_fast(unpaced, draft, 2.0)  # type: ignore[arg-type]
    admission.end_stream(first)
    assert not admission.too_fast(second, draft, 1.0)  # type: ignore[arg-type]


def test_predictions_avoid_preemptions() -> None:
    """Thirty requests that owe nothing: with true lengths nobody is ever forced out."""
    requests = [arriving(index, 0.0, 8 + index % 5) for index in range(30)]
    outputs = [10 + index % 7 for index in range(30)]
    forced = {}
    for on in (True, False):
        scheduler = told(
            {f"r{index}": tokens for index, tokens in enumerate(outputs)},
            admission=on,
            rotation=False,
            max_num_seqs=8,
            aging=False,
        )
        run(scheduler, requests, outputs, 24)
        forced[on] = scheduler.counters.get("forced_preemptions", 0)
    assert forced[True] == 0 < forced[False]


@pytest.mark.parametrize("lag", [0, 1])
def test_what_never_fits_is_turned_away_once(lag: int) -> None:
    """Ten blocks of four hold 40 tokens: 60 never fit. With lag 1 the end waits for the step that
    is under way, and nobody may ask for it again until then.
    """
    requests = [arriving(0, 0.0, 8), arriving(1, 2.0, 60), arriving(2, 3.0, 8)]
    found = run(rotating(), requests, [9, 1, 2], 10, lag=lag)
    assert [event[2] for event in found.kinds("reject")] == ["r1"]
    assert [event[2] for event in found.kinds("finish")] == ["r0", "r2"]
