"""`rotating`: places that streams lend to each other (blocks of four tokens, steps of one second:
iteration k starts at k - 1 s).
"""

from __future__ import annotations

import json
import random
from math import inf
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import pytest
from harness import iterations, request
from rotating_runs import promised, rotating, told

from sim.run import run_simulation
from sim.workload import load_workload
from superinfer.lab.config import load_config
from superinfer.metrics.summary import summarise
from superinfer.schedulers.rotating.aging import AgedShare
from superinfer.schedulers.rotating.deadlines import Job, job_of
from superinfer.schedulers.rotating.entrance import Entrance
from superinfer.schedulers.rotating.lengths import NoLengths
from superinfer.schedulers.rotating.outlook import Outlook
from superinfer.schedulers.rotating.tenants import TenantCounters
from superinfer.schedulers.rotating.waiting import TRIAGED_AT_ONCE, Waiting
from superinfer.sequence import Sequence, State

STREAM = promised(ttft_s=8.0, tpot_s=4.0)
START = ["A16 used 5", "A4 used 5", "A used 6", "A used 6"]
STAYS = "A used 6"
LEAVES = "B15 -A used 8"


def b_comes(a: dict[str, Any], b: dict[str, Any]) -> str:
    """What happens in iteration 5, when B is urgent and A has its place."""
    lines = iterations(
        told({"A": 30, "B": 2}),
        {"A": (20, 30), "B": (32, 2)},
        {"B": 5},
        blocks=13,
        requests={"A": a, "B": b},
    )
    assert lines[:4] == START
    return lines[4]


@pytest.mark.interpreted
def test_no_stream_leaves_for_one_more_than_there_are_tokens_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both are owed a token every 4 s. One a second is enough; of one every 2 s, 90 % are not. Who
    is owed no pace leaves all the same, and so does A for a request that is owed only its first
    token.
    """
    first = promised(ttft_s=4.0)
    both = promised(ttft_s=4.0, tpot_s=4.0)
    assert b_comes(STREAM, both) == LEAVES
    monkeypatch.setattr(Outlook, "recent_step_s", 2.0)
    assert b_comes(STREAM, both) == STAYS
    assert b_comes(promised(ttft_s=8.0), both) == LEAVES
    assert b_comes(STREAM, first) == LEAVES


@pytest.mark.parametrize("late", [False, True])
def test_no_stream_leaves_while_too_many_wait_that_are_late(late: bool) -> None:
    """H needs the eight blocks and one that B needs, too, and can be in time or cannot. One that is
    late is more than half of the one that decodes.
    """
    lines = iterations(
        told({"A": 30, "B": 2, "H": 2}),
        {"A": (20, 30), "B": (32, 2), "H": (32, 2)},
        {"H": 4, "B": 5},
        blocks=13,
        requests={
            "A": STREAM,
            "B": promised(ttft_s=4.0),
            "H": promised(ttft_s=0.5) if late else {},
        },
    )
    assert lines[:4] == START
    assert lines[4] == (STAYS if late else LEAVES)


@pytest.mark.interpreted
@pytest.mark.parametrize(("step_s", "line"), [(1.0, "C12 B used 12"), (2.0, "B used 9")])
def test_a_new_stream_waits_for_those_that_are_out(
    monkeypatch: pytest.MonkeyPatch, step_s: float, line: str
) -> None:
    """A left for B in iteration 5, and for C there is room in iteration 8. C, which has time, takes
    it where there are enough tokens for A and C; where there are not, it lets A come back first.
    Once nobody is on the device, nothing is waited for.
    """
    monkeypatch.setattr(Outlook, "recent_step_s", step_s)
    lines = iterations(
        told({"A": 30, "B": 2, "C": 30}),
        {"A": (20, 30), "B": (32, 2), "C": (12, 30)},
        {"B": 5, "C": 8},
        blocks=13,
        requests={
            "A": STREAM,
            "B": promised(ttft_s=4.0),
            "C": promised(ttft_s=20.0, tpot_s=4.0),
        },
    )
    assert lines[:5] == [*START, LEAVES]
    assert lines[7] == line
    assert ("C12 used 3" in lines) == (step_s == 2.0)


@pytest.mark.parametrize(("stall_s", "line"), [(5.0, "B used 9"), (9.0, "C12 B used 12")])
def test_a_new_stream_waits_for_one_that_has_to_be_back(stall_s: float, line: str) -> None:
    """The same, and enough tokens for A and C. C has to start at once; it comes in nevertheless
    only where A may stay out for longer.
    """
    lines = iterations(
        told({"A": 30, "B": 2, "C": 30}),
        {"A": (20, 30), "B": (32, 2), "C": (12, 30)},
        {"B": 5, "C": 8},
        blocks=13,
        requests={
            "A": promised(ttft_s=8.0, tpot_s=4.0, max_stall_s=stall_s),
            "B": promised(ttft_s=4.0),
            "C": promised(ttft_s=1.5, tpot_s=4.0),
        },
    )
    assert lines[:5] == [*START, LEAVES]
    assert lines[7] == line


def test_a_stream_that_is_let_first_comes_back_at_once() -> None:
    """A leaves for C at 2 s, and at 3 s E is alone: 90 % of its token a second is too little for
    the paces of all three. C lets A go first, and A, though not urgent, need not wait until then.
    """
    lines = iterations(
        told({"A": 19, "E": 4, "C": 1}),
        {"A": (3, 19), "E": (1, 4), "C": (33, 1)},
        {"C": 3},
        blocks=11,
        requests={
            "A": promised(tpot_s=3.0),
            "E": promised(tpot_s=3.0),
            "C": promised(ttft_s=8.0, tpot_s=3.0),
        },
    )
    assert lines[:3] == ["A3 E1 used 2", "AE used 2", "-A E used 1"]
    assert lines[3:6] == ["+A E used 2", "C15 A used 11", "C15 A used 11"]


def test_who_has_begun_passes_a_late_one_that_finds_no_room() -> None:
    """B, due for nothing any more, gave its blocks to A's growth. C and D are late when A ends, and
    the shorter of them comes in. D needs all blocks, so B need not wait behind it.
    """
    lines = iterations(
        told({"A": 8, "B": 5, "C": 5, "D": 1}),
        {"A": (20, 8), "B": (8, 5), "C": (8, 5), "D": (32, 1)},
        {"D": 2, "B": 5, "C": 7},
        blocks=8,
        requests={
            "A": promised(ttft_s=9.0, tpot_s=4.0),
            "B": promised(ttft_s=2.0),
            "C": promised(ttft_s=2.0),
            "D": promised(ttft_s=3.0),
        },
    )
    assert lines[4:6] == ["B8 A used 8", "-B A used 6"]
    assert lines[9:11] == ["C8 +B used 4", "BC used 6"]
    assert lines[-2:] == ["D16 used 8", "D16 used 8"]


@pytest.mark.interpreted
def test_a_stream_whose_cache_was_dropped_waits_for_nobody() -> None:
    """A new request waits for a stream on the host that has to be back, whatever it is owed itself.
    One that has begun does not: it has no age at which it would come in all the same.
    """
    parts: Any = SimpleNamespace(
        any_pressing=True, places=1, machine=SimpleNamespace(total_blocks=8)
    )
    entrance = Entrance(rotating(), parts, parts, parts, parts, parts, parts)
    for targets in ({}, promised(tpot_s=1.0)):
        job = job_of(Sequence(request(0, 4, 0, **targets)), NoLengths())
        assert entrance.yields(parts, job)
        job.seq.output_tokens = 1
        assert not entrance.yields(parts, job)


@pytest.mark.interpreted
def test_only_prompts_that_are_wanted_in_time_count_as_work_that_waits() -> None:
    """What is not cached of them, until they come in; no stream, and nobody without a target."""
    draft = SimpleNamespace(cached_tokens=lambda seq: 4)
    outlook: Any = SimpleNamespace(
        draft=draft, start_and_due_s=lambda job: (9.0, 10.0), reaction_s=lambda job: 1.0, step_s=1.0
    )
    nobody: Any = SimpleNamespace(discard=lambda job: None, add=lambda job: None)
    shares = (TenantCounters(), AgedShare(0.1, 4.0), nobody)
    waiting = Waiting(rotating(), outlook, *shares)
    prompt, other, stream, plain = (
        job_of(Sequence(request(row, 20, 0, **promised(**targets))), NoLengths())
        for row, targets in enumerate(({"ttft_s": 10.0}, {"ttft_s": 10.0}, {"tpot_s": 1.0}, {}))
    )
    stream.seq.output_tokens = 1
    for job in (prompt, other, stream, plain, prompt):
        waiting.add(job, 0.0)
    assert waiting.prompt_tokens == 32
    waiting.comes_in(prompt)
    assert waiting.prompt_tokens == 16
    waiting.forget(other)
    assert waiting.prompt_tokens == 0


def queued(
    starts_s: list[float], treatments: list[dict[str, Any]], begun: bool, **settings: Any
) -> tuple[Waiting, list[Job]]:
    """Requests on the host that wait since 0 s and have to start at these times. A second before
    that they are urgent.
    """
    outlook: Any = SimpleNamespace(
        draft=SimpleNamespace(cached_tokens=lambda seq: 0),
        start_and_due_s=lambda job: (starts_s[job.seq.request.index], inf),
        reaction_s=lambda job: 1.0,
        step_s=1.0,
    )
    nobody: Any = SimpleNamespace(discard=lambda job: None, add=lambda job: None)
    scheduler = rotating(promotion_share=0.0, promotion_margin_s=0.0, **settings)
    waiting = Waiting(scheduler, outlook, TenantCounters(), AgedShare(0.1, 4.0), nobody)
    jobs = []
    for row, treatment in enumerate(treatments):
        seq = Sequence(request(row, 20, 0, **promised(**treatment)))
        job = job_of(seq, NoLengths())
        seq.state, seq.output_tokens, job.owed_rate = State.SWAPPED, int(begun), float(begun)
        jobs.append(job)
        waiting.add(job, 0.0)
    return waiting, jobs


@pytest.mark.interpreted
def test_the_stream_that_has_to_be_back_first_comes_back_first() -> None:
    """As long as it waits on the host: what is computed again is not brought back."""
    waiting, jobs = queued([5.0, 3.0, 2.0, 0.5], [{"tpot_s": 1.0}] * 4, True)
    jobs[2].seq.state = State.WAITING
    assert (waiting.any_pressing, waiting.away) == (True, jobs[3])
    waiting.comes_in(jobs[3])
    assert (waiting.any_pressing, waiting.away) == (False, jobs[1])
    waiting.comes_in(jobs[1])
    assert (waiting.any_pressing, waiting.away) == (False, jobs[0])
    waiting.comes_in(jobs[2])
    assert (waiting.promote(4.0), waiting.any_pressing) == (jobs[0], True)
    waiting.forget(jobs[0])
    assert (waiting.any_away, waiting.any_pressing, waiting.away) == (False, False, None)


@pytest.mark.interpreted
def test_a_prompt_on_the_host_is_no_stream_that_presses() -> None:
    waiting, jobs = queued([5.0], [{"ttft_s": 9.0}], False)
    assert waiting.promote(4.0) is jobs[0] and waiting.urgent(4.0) is jobs[0]
    assert (waiting.any_pressing, waiting.away) == (False, None)


@pytest.mark.interpreted
def test_a_decision_holds_until_the_turn_passes_to_another_weight() -> None:
    """4 s over 1 and 6 s over 2: both have 2 s of slack over weight at 2 s."""
    targets = [{"ttft_s": 9.0, "weight": 1.0}, {"ttft_s": 9.0, "weight": 2.0}]
    waiting, jobs = queued([4.0, 6.0], targets, False, promotion=False, aging=False)
    assert waiting.head(0.0) is jobs[1] and waiting.next_s(0.0) == 2.0


@pytest.mark.interpreted
def test_no_more_urgent_requests_are_weighed_than_a_decision_can() -> None:
    """They stay where they are."""
    count = TRIAGED_AT_ONCE + 1
    starts_s = [row / 64 for row in range(count)]
    waiting, jobs = queued(starts_s, [{"ttft_s": 9.0}] * count, False)
    for _ in range(2):
        assert waiting.all_urgent(0.0) == jobs[:TRIAGED_AT_ONCE]


@pytest.mark.interpreted
def test_each_token_of_a_paced_stream_is_waited_for_a_little_longer() -> None:
    """It is urgent two steps and a copy ahead; by a margin more where each token is due, or no gap
    may be longer than the class bears.
    """
    outlook: Any = SimpleNamespace(reaction_s=lambda job: 2.5, step_s=1.0)
    waiting = Waiting(
        rotating(promotion_margin_s=0.75), outlook, TenantCounters(), AgedShare(0.1, 4.0), outlook
    )
    treatments: list[dict[str, Any]] = [{}, {"delivery": "paced"}, {"max_stall_s": 9.0}]
    jobs = [
        job_of(Sequence(request(0, 4, 0, **promised(tpot_s=1.0, **treatment))), NoLengths())
        for treatment in treatments
    ]
    for job in jobs:
        job.seq.output_tokens = 1
    assert [waiting.bound_s(job, 0) for job in jobs] == [2.5, 3.25, 3.25]


def paced_attainment(trace: Path, **treatment: Any) -> float:
    """Of the requests of one class, who get every token in time."""
    targets = {"ttft_ms": 1000, "tpot_ms": 50, "max_tokens": 512, **treatment}
    rows = [f"{key} = {json.dumps(value)}\n" for key, value in targets.items()]
    classes = trace.with_suffix(".toml")
    classes.write_text("[classes.stream]\n" + "".join(rows))
    config = load_config([], ["run.kv_blocks=700"], classes, trace=str(trace))
    summary = summarise(run_simulation(config, load_workload(config)).record)
    return float(summary["paced_attainment"])


def write_burst(trace: Path, seed: int) -> None:
    """150 requests in 25 s, half as many again as there is memory for."""
    seeded = random.Random(seed)
    lines = [
        {
            "timestamp": time_ms,
            "input_length": seeded.randint(100, 1900),
            "output_length": seeded.randint(20, 400),
            "class": "stream",
        }
        for time_ms in sorted(seeded.uniform(0.0, 25_000.0) for _ in range(150))
    ]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    "looser", [{}, {"max_stall_ms": 1000}, {"delivery": "paced"}], ids=["none", "1 s", "paced"]
)
def test_a_looser_class_is_not_worse_off_in_overload(
    tmp_path: Path, looser: dict[str, Any]
) -> None:
    """Streams that tolerate a gap of their pace only never leave for others; where all are free to
    leave, about as many are in time, and not half of them.
    """
    kept, found = [], []
    for seed in (0, 1, 2):
        trace = tmp_path / f"{seed}.jsonl"
        write_burst(trace, seed)
        kept.append(paced_attainment(trace, max_stall_ms=50))
        found.append(paced_attainment(trace, **looser))
    assert 0.5 < mean(kept) < 0.9
    assert mean(found) > mean(kept) - 0.05
