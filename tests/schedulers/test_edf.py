"""`edf`: worked schedules (blocks of four tokens, no watermark, one second a step)."""

from __future__ import annotations

from typing import Any

import pytest
from harness import iterations, make_engine, request

from superinfer.errors import ConfigError
from superinfer.request import SLO
from superinfer.schedulers.edf import EdfScheduler
from superinfer.schedulers.parts import deadline_s


def edf(**settings: Any) -> EdfScheduler:
    settings.setdefault("watermark", 0.0)
    settings.setdefault("max_num_seqs", 4)
    settings.setdefault("max_num_batched_tokens", 8)
    return EdfScheduler(**settings)


def due(ttft_s: float | None = None, e2el_s: float | None = None) -> dict[str, Any]:
    return {"slo": SLO(ttft_s=ttft_s, e2el_s=e2el_s)}


def test_the_earlier_deadline_goes_first() -> None:
    """B and C arrive at 0.5 s and are due at 3.5 and, whole, at 10.5 s; A is due at 20 s and waits
    with the rest of its prompt.
    """
    jobs = {"A": (20, 1), "B": (6, 1), "C": (4, 1)}
    requests = {"A": due(20.0), "B": due(3.0), "C": due(None, 10.0)}
    lines = iterations(edf(), jobs, {"B": 2, "C": 2}, blocks=16, requests=requests)
    assert lines == ["A8 used 5", "B6 C2 used 8", "C2 A6 used 6", "A6 used 5"]


def test_an_earlier_deadline_takes_the_blocks_of_a_later_one() -> None:
    """B needs two blocks and one is free: A, due later, drops its three and starts again."""
    requests = {"A": due(50.0), "B": due(2.0)}
    lines = iterations(
        edf(max_num_batched_tokens=16),
        {"A": (9, 3), "B": (8, 1)},
        {"B": 2},
        blocks=4,
        requests=requests,
    )
    assert lines == ["A9 used 3", "B8 -A used 2", "A10 used 3", "A used 3"]


def test_room_is_made_for_the_watermark_too() -> None:
    """B needs six of eight blocks, and two stay free: the five that are free and A's three are just
    enough.
    """
    lines = iterations(
        edf(max_num_batched_tokens=32, watermark=0.25),
        {"A": (9, 3), "B": (24, 1)},
        {"B": 2},
        requests={"A": due(50.0), "B": due(2.0)},
    )
    assert lines == ["A9 used 3", "B24 -A used 6", "A10 used 3", "A used 3"]


@pytest.mark.parametrize(
    ("preempts", "a_due_s"),
    [(False, 50.0), (True, 2.5)],
    ids=["without preemption", "of equal deadlines"],
)
def test_who_may_not_preempt_waits(preempts: bool, a_due_s: float) -> None:
    """B arrives at 0.5 s and is due at 2.5 s."""
    lines = iterations(
        edf(max_num_batched_tokens=16, preempts=preempts),
        {"A": (9, 3), "B": (8, 1)},
        {"B": 2},
        blocks=4,
        requests={"A": due(a_due_s), "B": due(2.0)},
    )
    assert lines == ["A9 used 3", "A used 3", "A used 3", "B8 used 2"]


def test_the_latest_deadline_gives_way_to_growth() -> None:
    """A came first but is promised nothing. It and B need a third block each and one is left: A
    goes, and its prompt and first token, nine tokens, need three blocks; two are free until the
    others have finished.
    """
    lines = iterations(
        edf(max_num_batched_tokens=32),
        {"A": (8, 4), "B": (8, 4), "C": (7, 4)},
        blocks=7,
        requests={"B": due(10.0), "C": due(10.0)},
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


@pytest.mark.parametrize(
    ("slo", "expected_s"),
    [
        (SLO(ttft_s=2.0, e2el_s=1.0), 7.0),
        (SLO(e2el_s=3.0, min_tokens_per_s=1.0), 8.0),
        (SLO(min_tokens_per_s=10.0), 15.0),
        (SLO(tpot_s=0.1), float("inf")),
    ],
)
def test_deadlines(slo: SLO, expected_s: float) -> None:
    """Of a request that arrives at 5 s and allows 100 tokens."""
    assert deadline_s(request(0, 4, 0, 5.0, slo=slo, max_tokens=100)) == expected_s


def test_bad_limits_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"scheduler\.watermark: expected"):
        make_engine(edf(watermark=1.0), 10)
