"""`vtc`: worked schedules (blocks of four tokens, no watermark)."""

from __future__ import annotations

from typing import Any

import pytest
from harness import iterations, make_engine, request

from superinfer.draft import Draft
from superinfer.errors import ConfigError
from superinfer.memory.lru import LruMemory
from superinfer.plan import Outcome
from superinfer.schedulers.tracking import TrackingScheduler
from superinfer.schedulers.vtc import TenantQueues, TokenCounters, VtcScheduler
from superinfer.sequence import Sequence, State


def vtc(**settings: Any) -> VtcScheduler:
    settings.setdefault("watermark", 0.0)
    settings.setdefault("max_num_seqs", 4)
    settings.setdefault("max_num_batched_tokens", 8)
    settings.setdefault("reserve_declared", False)
    return VtcScheduler(**settings)


def of_tenants(**names: str) -> dict[str, dict[str, Any]]:
    """Requests by the tenant that sends them: `x="ABC"`."""
    return {name: {"tenant": tenant} for tenant, group in names.items() for name in group}


def test_tenants_take_turns() -> None:
    """x sends A, B, C before y sends D, E. Both start at 0: A by age, then y is behind. After three
    tokens each they stand at 4 + 6 = 10 again.
    """
    lines = iterations(
        vtc(max_num_seqs=2),
        dict.fromkeys("ABCDE", (4, 3)),
        requests=of_tenants(x="ABC", y="DE"),
    )
    assert lines == [
        "A4 D4 used 2",
        "AD used 4",
        "AD used 4",
        "B4 E4 used 2",
        "BE used 4",
        "BE used 4",
        "C4 used 1",
        "C used 2",
        "C used 2",
    ]


@pytest.mark.parametrize(("output_weight", "last"), [(2.0, "BD"), (1.0, "DB")])
def test_output_tokens_weigh_more(output_weight: float, last: str) -> None:
    """x has had A's 8 prompt tokens and one output token, y C's 4 and four: 10 against 12, or with
    equal weights 9 against 8.
    """
    lines = iterations(
        vtc(max_num_seqs=1, output_weight=output_weight),
        {"A": (8, 1), "B": (4, 1), "C": (4, 4), "D": (4, 1)},
        requests=of_tenants(x="AB", y="CD"),
    )
    assert lines == [
        "A8 used 2",
        "C4 used 1",
        *["C used 2"] * 3,
        *[f"{name}4 used 1" for name in last],
    ]


def test_a_tenant_that_was_idle_is_lifted() -> None:
    """y comes when x, with C waiting, stands at 8 for A and 6 for B, and starts at 14. D makes it
    22, so that C (x stands at 16) is served before E; from 0 it would have been after.
    """
    lines = iterations(
        vtc(max_num_seqs=1),
        dict.fromkeys("ABCDE", (4, 2)),
        {"D": 4, "E": 4},
        requests=of_tenants(x="ABC", y="DE"),
    )
    assert lines == [line for name in "ABDCE" for line in (f"{name}4 used 1", f"{name} used 2")]


def test_where_nobody_waits_the_last_to_leave_counts() -> None:
    counters = TokenCounters(2.0)
    queues = TenantQueues(counters)
    first, second, third = (
        Sequence(request(index, 4, 0, tenant=tenant)) for index, tenant in enumerate("xyz")
    )
    for seq in (first, second, third):
        seq.rank = (float(seq.request.index),)
    queues.arrive(first)
    assert queues.head() is first
    queues.pop()
    first.state = State.PREFILLING
    counters.add("x", 100.0)
    queues.arrive(second)
    assert counters["y"] == 100.0
    counters.add("y", 1.0)
    queues.arrive(third)
    assert counters["z"] == 101.0  # y waits and is the lowest of those that do
    assert queues.head() is second


def test_a_stream_that_stops_may_round_a_service_down() -> None:
    """x has 0.1 times 7 tokens of two streams, 0.7000000000000001, and y as much and came first.
    One stream of x stops after five of them: 0.5 and 0.1 times 2 are 0.7.
    """
    counters = TokenCounters(0.1)
    queues = TenantQueues(counters)
    first, second = (Sequence(request(index, 4, 0, tenant=name)) for index, name in enumerate("yx"))
    for seq in (first, second):
        seq.rank = (float(seq.request.index),)
        queues.push(seq)
    counters.stream("x", 0, 1)
    counters.stream("x", 3, 1)
    counters.step = 5
    counters.add("y", counters["x"])
    assert queues.head() is first
    counters.stream("x", 0, -1)
    counters.add_output("x", 5)
    assert queues.head() is second


def test_the_last_to_leave_may_have_given_up() -> None:
    """y's request is cancelled before x's, though x was the first to wait: x is the last that had
    anything waiting, and z starts where x stands, with its own prompt of 4 on top of it.
    """
    scheduler = vtc(max_num_seqs=1)
    engine = make_engine(scheduler, 10)
    seqs = {
        name: engine.submit(request(index, 4, 0, tenant=name), 0.0)
        for index, name in enumerate("axy")
    }
    plan = engine.plan(0.0)
    assert plan is not None
    scheduler.service.add("x", 5.0)
    scheduler.service.add("y", 9.0)
    for name in "yx":
        engine.cancel(seqs[name], 0.0)
    engine.complete(plan, Outcome(1.0, [1.0], [seqs["a"]]))
    engine.submit(request(3, 4, 0, tenant="z"), 1.0)
    engine.plan(1.0)
    assert scheduler.service["z"] == 9.0


def test_the_latest_arrival_gives_way() -> None:
    """Without a reserve, as under `fcfs`: C drops its cache and needs two blocks to return."""
    jobs = {"A": (8, 4), "B": (8, 4), "C": (7, 4)}
    assert iterations(vtc(max_num_batched_tokens=32), jobs, blocks=7) == [
        "A8 B8 C7 used 6",
        "-C AB used 6",
        "AB used 6",
        "AB used 6",
        "C8 used 2",
        "C used 3",
        "C used 3",
    ]


@pytest.mark.parametrize(
    "memory",
    [
        LruMemory(),
        LruMemory("swap"),
        LruMemory("swap", swap_in_timing="background"),
    ],
    ids=["dropped", "swapped", "back beside a step"],
)
def test_a_stream_that_was_away_begins_again(memory: LruMemory) -> None:
    """As the one before: C has to go, and comes back whatever becomes of its cache."""
    told: list[str] = []

    class Told(TrackingScheduler):
        def plan(self, draft: Draft, now: float) -> None:
            self.observe(draft)
            TrackingScheduler.plan(self, draft, now)

        def began(self, draft: Draft, seq: Sequence) -> None:
            told.append(f"+{seq.request.request_id}")

        def stopped(self, seq: Sequence) -> None:
            told.append(f"-{seq.request.request_id}")

    scheduler = Told(watermark=0.0, max_num_seqs=4, max_num_batched_tokens=32)
    iterations(scheduler, {"A": (8, 4), "B": (8, 4), "C": (7, 4)}, blocks=7, memory=memory)
    assert told == ["+A", "+B", "+C", "-C", "-A", "-B", "+C", "-C"]


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        (8, ["A8 B8 used 4", *["AB used 6"] * 3]),
        (7, ["A8 used 2", *["A used 3"] * 3, "B8 used 2", *["B used 3"] * 3]),
    ],
)
def test_declared_answers_have_to_fit(blocks: int, expected: list[str]) -> None:
    """A may give 4 tokens and B 8. When A ends they hold 16 + 2 x 4 = 24 tokens, the most they ever
    may, which is six blocks; each may waste part of one more.
    """
    lines = iterations(
        vtc(reserve_declared=True, max_num_batched_tokens=16),
        {"A": (8, 4), "B": (8, 4)},
        blocks=blocks,
        requests={"A": {"max_tokens": 4}, "B": {"max_tokens": 8}},
    )
    assert lines == expected


@pytest.mark.parametrize("name", ["input_weight", "output_weight"])
def test_negative_weights_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"scheduler\.{name}: expected at least 0, got -1"):
        make_engine(vtc(**{name: -1.0}), 10)
