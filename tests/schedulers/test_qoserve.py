"""`qoserve`: worked schedules (blocks of four tokens, no watermark, one second a step)."""

from __future__ import annotations

from typing import Any

import pytest
from harness import FakeCost, iterations, make_engine, request

from superinfer.errors import ConfigError
from superinfer.heaps import FEWEST
from superinfer.plan import Outcome
from superinfer.request import SLO
from superinfer.schedulers.qoserve import AnswerLengths, QoServeScheduler, Timelines
from superinfer.sequence import Sequence


def qoserve(**settings: Any) -> QoServeScheduler:
    settings.setdefault("watermark", 0.0)
    settings.setdefault("max_num_seqs", 4)
    settings.setdefault("max_num_batched_tokens", 8)
    settings.setdefault("alpha_ms_per_token", 0.0)
    return QoServeScheduler(**settings)


def first_token(ttft_s: float) -> dict[str, Any]:
    return {"slo": SLO(ttft_s=ttft_s)}


def test_timelines_forget_streams_that_are_over() -> None:
    """Steps of half a second beside a pace of one: each later stream is due before the others. One
    that came first, due every second from 500 s on, is kept.
    """
    timelines, stream = Timelines(), Sequence(request(0, 1, 0))
    timelines.add(Sequence(request(0, 1, 0)), 1.0, 500.0, 0)
    for step in range(3 * FEWEST):
        later = Sequence(request(step, 1, 0))
        timelines.add(later, 1.0, 5.0 + step / 2, step)
        timelines.discard(stream)
        stream = later
        assert timelines.budget_s(step / 2, step) == 5.0
    assert len(timelines._by_pace[1.0]) <= FEWEST + 2
    timelines.discard(stream)
    assert timelines.budget_s(10.0, 4) == 494.0


def test_a_timeline_moves_on_by_a_pace_a_step() -> None:
    """Due at 100 s after 40 steps, a stream has got two tokens since: the next is due at 100.5 s.
    A step may take until then, and never less than the pace.
    """
    timelines = Timelines()
    timelines.add(Sequence(request(0, 1, 0)), 0.25, 100.0, 40)
    assert timelines.budget_s(99.0, 42) == 1.5
    assert timelines.budget_s(100.5, 42) == 0.25


@pytest.mark.parametrize(
    ("alpha_ms_per_token", "expected"),
    [(0.0, ["A8 used 2", "B4 used 1"]), (1000.0, ["B4 A4 used 3", "A4 used 2"])],
)
def test_alpha_weighs_work_against_deadlines(
    alpha_ms_per_token: float, expected: list[str]
) -> None:
    """A is due at 10 s with 8 tokens of work, B at 12 s with 4: 18 against 16 at a second each."""
    lines = iterations(
        qoserve(alpha_ms_per_token=alpha_ms_per_token),
        {"A": (8, 1), "B": (4, 1)},
        requests={"A": first_token(10.0), "B": first_token(12.0)},
    )
    assert lines == expected


def test_chunks_leave_less_work() -> None:
    """At a second a token A, due at 10 s, has 16 s of work and after its first chunk 8. B comes
    then, due at 12.5 s with 8 s of work: before A at the outset, and behind it now.
    """
    lines = iterations(
        qoserve(alpha_ms_per_token=1000.0),
        {"A": (16, 1), "B": (8, 1)},
        {"B": 2},
        requests={"A": first_token(10.0), "B": first_token(12.0)},
    )
    assert lines == ["A8 used 4", "A8 used 4", "B8 used 2"]


def test_answers_that_have_ended_tell_how_much_work_the_next_ones_are() -> None:
    """At a second a token. B and C come when A's answer of one token is known; B is due, whole, at
    20 s and C's first token at 25 s. With 8 + 1 s of work B is before C, with the 8 + 30 s that it
    may take it would come after.
    """
    whole = {"slo": SLO(e2el_s=18.5), "max_tokens": 30}
    lines = iterations(
        qoserve(alpha_ms_per_token=1000.0, max_num_seqs=1),
        {"A": (8, 1), "B": (8, 1), "C": (8, 1)},
        {"B": 3, "C": 3},
        requests={"A": whole, "B": whole, "C": first_token(23.5)},
    )
    assert lines == ["A8 used 2", "B8 used 2", "C8 used 2"]


def test_a_running_prefill_gives_way_and_keeps_its_blocks() -> None:
    """B, due at 3.5 s, comes between the two chunks of A, due at 20 s."""
    lines = iterations(
        qoserve(),
        {"A": (16, 1), "B": (8, 1)},
        {"B": 2},
        requests={"A": first_token(20.0), "B": first_token(3.0)},
    )
    assert lines == ["A8 used 4", "B8 used 6", "A8 used 4"]


@pytest.mark.parametrize(
    ("relegation", "expected"),
    [
        (True, ["A8 used 4", "B8 used 6", "A8 used 4"]),
        (False, ["A8 used 4", "A8 used 4", "B8 used 2"]),
    ],
)
def test_a_sure_miss_goes_behind_the_others(relegation: bool, expected: list[str]) -> None:
    """A is due at 1.5 s. After its first chunk, at 1 s, the second alone would end at 2 s."""
    lines = iterations(
        qoserve(relegation=relegation),
        {"A": (16, 1), "B": (8, 1)},
        requests={"A": first_token(1.5), "B": first_token(9.0)},
    )
    assert lines == expected


def test_who_was_relegated_gives_way_to_growth() -> None:
    """A is late from the start. It and B need a third block each and one is left: A drops its
    cache; it needs three blocks to return, and two are free until the others have finished.
    """
    lines = iterations(
        qoserve(max_num_batched_tokens=32),
        {"A": (8, 4), "B": (8, 4), "C": (7, 4)},
        blocks=7,
        requests={"A": first_token(0.5)},
    )
    assert lines == [
        "B8 C7 A8 used 6",
        "-A BC used 5",
        "BC used 6",
        "BC used 6",
        "A9 used 3",
        "A used 3",
        "A used 3",
    ]


def test_a_blocked_request_is_relegated_in_time() -> None:
    """B arrives at 0.5 s, is due at 5 s and needs all four blocks, of which A holds some. From 4 s
    on it is a sure miss, and C, behind it until then, comes in (and gives way when A grows). Those
    that are promised nothing go before B from then on.
    """
    lines = iterations(
        qoserve(max_num_batched_tokens=16),
        {"A": (4, 9), "B": (16, 1), "C": (4, 2)},
        {"B": 2, "C": 2},
        blocks=4,
        requests={"B": first_token(4.5)},
    )
    assert lines == [
        "A4 used 1",
        *["A used 2"] * 3,
        "C4 A used 3",
        "-C A used 3",
        *["A used 3"] * 3,
        "C5 used 2",
        "B16 used 4",
    ]


@pytest.mark.parametrize(
    ("ttft_s", "tokens"), [(2.0, 18 * 64), (1.0, 3 * 64), (0.5, 3 * 64)], ids=["ahead", "", "late"]
)
def test_slack_of_streams_becomes_prefill(ttft_s: float, tokens: int) -> None:
    """A step costs 1/1024 s per chunk token and 1/64 s flat. A has its first token at 1 s and the
    second is due 0.25 s after the TTFT target: at 2.25, 1.25 or 0.75 s. 95 % of the slack, or of
    the pace if that is more, allows 1,200 or 227 tokens: 18 or 3 times 64.
    """
    cost = FakeCost(step=2**-6, per_chunk_token=2**-10)
    engine = make_engine(qoserve(max_num_batched_tokens=4096), 2000, cost=cost)
    engine.submit(request(0, 4, 0, slo=SLO(ttft_s=ttft_s, tpot_s=0.25)), 0.0)
    first = engine.plan(0.0)
    assert first is not None
    engine.complete(first, Outcome(1.0, [1.0]))
    engine.submit(request(1, 3000, 0), 1.0)
    second = engine.plan(1.0)
    assert second is not None and second.decodes == 1
    assert [chunk.tokens for chunk in second.chunks] == [tokens]


def test_expected_answers() -> None:
    """Mean plus two standard deviations, never more than the request allows."""
    lengths = AnswerLengths()
    assert lengths.cautious("chat", 100) == 100.0
    lengths.learn("chat", 2)
    lengths.learn("chat", 4)
    assert lengths.cautious("chat", 100) == 5.0
    assert lengths.cautious("chat", 4) == 4.0


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("alpha_ms_per_token", -1.0, "at least 0, got -1"),
        ("pace_margin", 1.5, "above 0 and at most 1, got 1.5"),
        ("best_effort_e2el_s", 0.0, "above 0, got 0"),
        ("tile_tokens", -1, "at least 0, got -1"),
    ],
)
def test_bad_settings_are_refused(name: str, value: float, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"scheduler\.{name}: expected {expected}"):
        make_engine(qoserve(**{name: value}), 10)
