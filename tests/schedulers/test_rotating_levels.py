"""`rotating`: levels of slack, and how a request moves between them (as in test_rotating_slack)."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from harness import iterations, make_engine, request
from rotating_runs import arriving, promised, rotating, run

from superinfer.heaps import FEWEST
from superinfer.plan import Outcome
from superinfer.schedulers.rotating import rotation
from superinfer.schedulers.rotating.deadlines import Job, job_of
from superinfer.schedulers.rotating.device import OnDevice
from superinfer.schedulers.rotating.lengths import NoLengths
from superinfer.schedulers.rotating.quantum import Quantum, quantum
from superinfer.schedulers.rotating.queues import LaxityQueues, TenantQueues
from superinfer.schedulers.rotating.tenants import TenantCounters
from superinfer.sequence import Sequence

A_ALONE = ["A16 used 5", "A4 used 5", "A used 6"]
A_GOES_ON = [f"A used {6 + (place + 1) // 4}" for place in range(10)]
"""The decodes of A from iteration 4 on, which fills its sixth block up to 22 tokens."""


@pytest.mark.parametrize("on", [True, False])
def test_skip_join(on: bool) -> None:
    """B comes at 1.5 s with a TTFT target of 100 s: slack 97.5 s at iteration 4, more than 4 units
    of 8 steps and less than 16, so it joins level 2 and waits for A, whose peak would not let it
    in. Without skip-join it joins the top as if it were urgent, and A has to leave.
    """
    lines = iterations(
        rotating(skip_join=on, promotion_share=0.0),
        {"A": (20, 12), "B": (12, 2)},
        {"B": 4},
        blocks=8,
        requests={"B": promised(ttft_s=100.0)},
    )
    assert lines[:3] == A_ALONE
    if on:
        assert lines[3:] == [*A_GOES_ON, "B12 used 3", "B used 4"]
    else:
        back = ["+A used 6", *A_GOES_ON]
        assert lines[3:] == ["B12 -A used 3", "B used 4", *back]


@pytest.mark.parametrize(
    ("ttft_s", "level"), [(3.25, 0), (3.5, 1), (32.75, 1), (33.25, 2), (128.75, 2), (129.25, 3)]
)
def test_levels_by_slack(ttft_s: float, level: int) -> None:
    """With its prefill of one step a request has `ttft_s` less 1 s of slack. Level 0 ends at two
    steps and 0.3 s, level 1 at 4 units of 8 steps, level 2 at 16 units.
    """
    scheduler = rotating(promotion_share=0.0, max_num_seqs=1)
    engine = make_engine(scheduler, 8)
    engine.submit(request(0, 8, 0), 0.0)
    assert engine.plan(0.0) is not None
    seq = engine.submit(request(1, 8, 0, **promised(ttft_s=ttft_s)), 0.0)
    engine.complete(engine.running, Outcome(0.0, [0.0]))  # type: ignore[arg-type]
    engine.plan(0.0)
    assert scheduler._jobs[seq].level == level


def test_inside_a_level_slack_counts_by_weight() -> None:
    """At 0 s: 4 s over weight 1 against 6 s over weight 2. At 8 s both are late, by 4 s times 1 and
    by 2 s times 2: a tie, which goes by arrival. Level 0 goes before all others. Before
    that the turn passes at 2 s, where both quotients are 2 s. Without the second the third, 19 s
    over weight 4, passes the first when both are late: at 24 s.
    """
    queues = LaxityQueues()
    jobs = {}
    for index, (start_by_s, weight, level) in enumerate(
        [(4.0, 1.0, 1), (6.0, 2.0, 1), (9.0, 1.0, 0), (19.0, 4.0, 1)]
    ):
        seq = Sequence(request(index, 8, 0, float(index), **promised(weight=weight)))
        jobs[index] = job_of(seq, NoLengths())
        jobs[index].start_by_s, jobs[index].level = start_by_s, level
        queues.push(jobs[index])
    assert queues.head(0.0) is jobs[2]
    queues.pop(jobs[2])
    assert queues.head(0.0) is jobs[1]
    assert queues.head(8.0) is jobs[0]
    assert queues.head(8.5) is jobs[1]
    assert (queues.next_turn_s(0.0), queues.next_turn_s(3.0)) == (2.0, 8.0)
    queues.pop(jobs[1])
    assert queues.next_turn_s(8.0) == 24.0
    queues.pop(jobs[0])
    assert queues.next_turn_s(8.0) == inf


def test_without_a_deadline_a_stream_comes_back_before_others_start() -> None:
    """The one that has begun came later; its memory is of use only when it goes on. Before it comes
    only who is late for a first token.
    """
    queues = TenantQueues(TenantCounters(), fair=True)
    new, begun, late = (
        job_of(Sequence(request(row, 8 + row, 0, float(row))), NoLengths()) for row in range(3)
    )
    begun.seq.output_tokens = 1
    late.relegated = True
    for job in (new, begun):
        queues.push(job)
    assert queues.head(0) is begun
    queues.push(late)
    assert queues.head(0) is late


def queued(queues: LaxityQueues | TenantQueues, row: int, level: int) -> Job:
    """A request that waits at a level, or without a deadline; the later, the longer its prompt."""
    job = job_of(Sequence(request(row, 8 + row, 0, float(row))), NoLengths())
    job.level, job.start_by_s, job.ticket = level, float(row), row
    queues.push(job)
    return job


@pytest.mark.parametrize("kind", ["laxity", "tenants"])
def test_queues_forget_who_left_behind_a_head_that_stays(kind: str) -> None:
    """At the level of the head, and at one that is never looked at while it waits."""
    laxity, tenants = LaxityQueues(), TenantQueues(TenantCounters(), fair=True)
    queues = laxity if kind == "laxity" else tenants
    first = queued(queues, 0, 0)
    for row in range(1, 4 * FEWEST):
        queued(queues, row, row % 4).ticket = -1
        assert (laxity.head(0.0) if kind == "laxity" else tenants.head(0)) is first
    last = queued(queues, 4 * FEWEST, 0)
    entries = [entry for heaps in queues._heaps for heap in heaps.values() for entry in heap]
    assert len(entries) <= FEWEST + 2
    first.ticket = -1
    assert (laxity.head(0.0) if kind == "laxity" else tenants.head(0)) is last


@pytest.mark.parametrize("on", [True, False])
def test_promotion_by_crossing_time(on: bool) -> None:
    """B comes at 2.5 s and is due at 11.5 s; its prefill of one step has to start at 10.5 s.
    At iteration 4 its slack of 7.5 s puts it on level 1; it crosses into level 0 two steps and
    0.3 s before its latest start, at 8.2 s, so A leaves in iteration 10, at 9 s. Nothing happens
    there but the passing of time. Its copy back has the device to itself ('+A' without a decode).
    """
    lines = iterations(
        rotating(promotion=on, promotion_share=0.0),
        {"A": (20, 12), "B": (12, 2)},
        {"B": 4},
        blocks=8,
        requests={"B": promised(ttft_s=9.0)},
    )
    assert lines[:3] == A_ALONE
    if on:
        assert lines[3:] == [
            *A_GOES_ON[:6],
            "B12 -A used 3",
            "B used 4",
            "+A used 7",
            *A_GOES_ON[6:],
        ]
    else:
        assert lines[3:] == [*A_GOES_ON, "B12 used 3", "B used 4"]


def test_promotion_ends_a_slice() -> None:
    """The same in whole slices: the crossing time is when the decision wants to be thought over."""
    requests = [
        arriving(0, 0.0, 20),
        arriving(1, 2.5, 12, **promised(ttft_s=9.0)),
    ]
    played = run(rotating(promotion_share=0.0), requests, [12, 2], 8)
    assert [event[:3] for event in played.kinds("promote")] == [(9.0, "promote", "r1")]
    assert [event[:3] for event in played.kinds("rotate_out")] == [(9.0, "rotate_out", "r0")]
    assert played.tokens(1) == [10.0, 11.0]


@pytest.mark.interpreted
@pytest.mark.parametrize("on", [True, False])
def test_demotion_on_quantum_use(monkeypatch: pytest.MonkeyPatch, on: bool) -> None:
    """With quanta of 4 tokens A, decoding since 1 s, has used its own at iteration 6 and sinks to
    level 1; B (paced, since iteration 4) has not. In iteration 7 the urgent C needs 8 blocks and 5
    are free. A's slack is a gap of 8 s and B's reaches to 20 s and more, so without demotion B
    would leave; with it the one that had its turn does.
    """
    monkeypatch.setattr(rotation, "quantum", lambda **load: Quantum(1, 4))
    targets = {"ttft_s": 20.0, "tpot_s": 8.0}
    lines = iterations(
        rotating(demotion=on),
        {"A": (8, 10), "B": (8, 10), "C": (28, 1)},
        {"B": 4, "C": 7},
        blocks=12,
        requests={
            "A": promised(**targets, max_stall_s=8.0),
            "B": promised(**targets, delivery="paced"),
            "C": promised(ttft_s=4.0),
        },
    )
    start = ["A8 used 2", "A used 3", "A used 3", "B8 A used 5", "AB used 6", "AB used 7"]
    assert lines[:6] == start
    if on:
        assert lines[6:9] == ["C14 -A B used 10", "C14 B used 10", "B used 4"]
    else:
        assert lines[6:9] == ["C14 -B A used 11", "C14 A used 11", "A used 4"]


@pytest.mark.interpreted
def test_who_has_left_and_come_back_begins_a_new_turn() -> None:
    """The end of the turn before, at step 10, does not count any more."""
    nothing: Any = None
    device = OnDevice(nothing, nothing, nothing, nothing, nothing)
    job = job_of(Sequence(request(0, 8, 0)), NoLengths())
    job.level, job.decoding, job.join_step = 0, True, 0
    device.start_quantum(job, 10)
    job.join_step = 6
    device.start_quantum(job, 16)
    assert device.steps_in_quanta(6) == 10
    assert device.quantum_used(12) is None
    assert device.quantum_used(16) is job


@pytest.mark.interpreted
def test_only_who_can_wait_is_demoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gap of one pace is the slack. 40 s are above the bounds of level 0 (two steps) and of level
    1 (32 steps), 8 s only above the first, and 2 s above none.
    """
    monkeypatch.setattr(rotation, "quantum", lambda **load: Quantum(1, 4))
    for tpot_s, demotions in ((40.0, 2), (8.0, 1), (2.0, 0)):
        scheduler = rotating()
        stream = promised(ttft_s=9.0, tpot_s=tpot_s, max_stall_s=tpot_s)
        run(scheduler, [arriving(0, 0.0, 8, **stream)], [20], 12)
        # After 4 tokens to level 1, after 8 more to level 2, where 16 do not come to an end.
        assert scheduler.counters.get("demotions", 0) == demotions


def test_a_gap_is_shared_by_those_who_take_turns() -> None:
    """Three requests take turns on two places, 1.5 on each: half a turn is as long as the gap of 30
    s that they tolerate.
    """
    scheduler = rotating(max_num_seqs=2, admission=False)
    engine = make_engine(scheduler, 20)
    seqs = [engine.submit(request(i, 8, 0, **promised(max_stall_s=30.0)), 0.0) for i in range(3)]
    plan = engine.plan(0.0)
    assert plan is not None and len(plan.chunks) == 2
    engine.complete(plan, Outcome(1.0, [1.0]))
    engine.plan(1.0)
    assert scheduler._rotation.quantum(scheduler._jobs[seqs[0]]) == Quantum(1, 60)


@pytest.mark.parametrize("step_s", [1.0, 0.25])
@pytest.mark.parametrize(
    ("load", "residence", "base"),
    [
        # Moving all 7.5 s of residents once per quantum may use half of the link: 15 s of steps.
        ({"resident_s": 7.5}, 15, 100),
        # A tenth of 3 s of copies is not hidden, and may be a twentieth of the quantum.
        ({"copy_s": 3.0}, 6, 100),
        # Three requests per place: two turns of others fit into a gap of 30 s.
        ({"stall_s": 30.0, "turns": 3.0}, 1, 15),
        # The link binds, whatever the gap.
        ({"stall_s": 30.0, "turns": 3.0, "resident_s": 20.0}, 40, 40),
        ({"stall_s": 30.0, "turns": 1.0}, 1, 100),
    ],
)
def test_quantum_by_rule(load: dict[str, float], residence: int, base: int, step_s: float) -> None:
    """For steps of 1 s; where all is faster by as much the tokens are the same."""
    given = {"resident_s": 0.0, "copy_s": 0.0, "stall_s": inf, **load}
    turns = given.pop("turns", 1.0)
    scaled = {name: seconds * step_s for name, seconds in given.items()}
    assert quantum(step_s=step_s, turns=turns, **scaled) == Quantum(residence, base)
