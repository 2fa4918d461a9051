"""`andes`: worked schedules (blocks of four tokens, no watermark, one second a step)."""

from __future__ import annotations

from typing import Any

import pytest
from harness import iterations, make_engine

from superinfer.errors import ConfigError
from superinfer.request import SLO
from superinfer.schedulers.andes import AndesScheduler, _quality

READER = {"slo": SLO(ttft_s=1.0, tpot_s=4.0)}
"""Expects the first token after a second, and then one every four."""
JOBS = {"A": (8, 6), "B": (8, 2)}
READERS = {"A": READER, "B": READER}


def andes(**settings: Any) -> AndesScheduler:
    settings.setdefault("watermark", 0.0)
    settings.setdefault("max_num_seqs", 4)
    settings.setdefault("max_num_batched_tokens", 16)
    settings.setdefault("interval_steps", 1)
    settings.setdefault("pressure", 0.5)
    settings.setdefault("horizon_s", 8.0)
    return AndesScheduler(**settings)


def test_decodes_wait_for_prefills() -> None:
    lines = iterations(andes(), {"A": (4, 3), "B": (4, 2)}, {"B": 2})
    assert lines == ["A4 used 1", "B4 used 2", "AB used 4", "A used 2"]


def test_who_gains_most_per_block_runs() -> None:
    """At 1 s A has one of the two tokens that its reader expects by 9 s: not served it loses a
    quarter, times 1.5 and over three blocks 0.125. B loses all, 0.33 a block, and takes A's place.
    At 2 s A waits with one of 2.25 tokens (a loss of 0.31, 0.10 a block) and B runs with one of
    2.125 (0.28 x 1.5, 0.14 a block), so nothing changes until B has ended.
    """
    lines = iterations(andes(), JOBS, {"B": 2}, blocks=4, requests=READERS)
    assert lines == [
        "A8 used 2",
        "B8 -A used 2",
        "B used 3",
        "A9 used 3",
        *["A used 3"] * 3,
        "A used 4",
    ]


def test_who_comes_back_takes_no_prompt_tokens() -> None:
    """A gets no token beside B's prompt, which has the whole budget."""
    lines = iterations(
        andes(preemption="swap"),
        {"A": (16, 6), "B": (16, 1), "C": (16, 1)},
        {"B": 3, "C": 1},
        blocks=9,
        requests={"B": READER, "C": READER},
    )
    assert lines[:3] == ["A16 used 4", "C16 -A used 4", "B16 +A used 8"]


def test_a_swapped_request_goes_on_where_it_stopped() -> None:
    """The same, but A's cache comes back from the host."""
    lines = iterations(andes(preemption="swap"), JOBS, {"B": 2}, blocks=4, requests=READERS)
    assert lines == [
        "A8 used 2",
        "B8 -A used 2",
        "B used 3",
        "+A A used 3",
        *["A used 3"] * 3,
        "A used 4",
    ]


@pytest.mark.parametrize(
    "settings",
    [{"preemptions_per_request": 0.0}, {"interval_steps": 100}],
    ids=["cap", "not yet"],
)
def test_where_nobody_may_be_preempted_the_queue_waits(settings: dict[str, Any]) -> None:
    """B needs two blocks beside the one that A's next token takes, and two are free."""
    lines = iterations(andes(**settings), JOBS, {"B": 2}, blocks=4, requests=READERS)
    assert lines == ["A8 used 2", *["A used 3"] * 4, "A used 4", "B8 used 2", "B used 3"]


@pytest.mark.parametrize(("cap", "line"), [(0.5, "B used 3"), (1.0, "-B +A A used 3")])
def test_preemptions_are_capped_over_all_requests(cap: float, line: str) -> None:
    """A left for B at 3 s. At 6 s it would have its place again, and does if two requests may be
    preempted twice.
    """
    lines = iterations(
        andes(preemptions_per_request=cap, preemption="swap"),
        {"A": (8, 6), "B": (8, 6)},
        {"B": 4},
        blocks=4,
        requests=READERS,
    )
    assert lines[3:7] == ["B8 -A used 2", "B used 3", "B used 3", line]


def test_only_pressure_preempts() -> None:
    """Of four blocks A takes two at 1 s, and three with its next token; only at 2 s all are taken
    with the next one, and B gets A's place.
    """
    lines = iterations(andes(pressure=1.0), JOBS, {"B": 2}, blocks=4, requests=READERS)
    assert lines == [
        "A8 used 2",
        "A used 3",
        "B8 -A used 2",
        "B used 3",
        "A10 used 3",
        *["A used 3"] * 2,
        "A used 4",
    ]


@pytest.mark.parametrize(("horizon_s", "line"), [(20.0, "B8 -A used 2"), (24.0, "A used 3")])
def test_who_runs_stays_unless_a_change_pays(horizon_s: float, line: str) -> None:
    """At 1 s A has one of 5 tokens, or of 6, that its reader expects by the horizon: not served it
    loses 0.64, or 0.69. B loses all, which is more than 1.5 times as much or less.
    """
    lines = iterations(andes(horizon_s=horizon_s), JOBS, {"B": 2}, blocks=4, requests=READERS)
    assert lines[:2] == ["A8 used 2", line]


@pytest.mark.parametrize(("blocks", "line"), [(10, "A used 9"), (11, "C2 used 10")])
def test_a_knapsack_that_is_nearly_full_is_left(blocks: int, line: str) -> None:
    """B and C lose nothing yet, and B, which came first, needs three blocks. Beside A's nine there
    is room for C's one, but of ten blocks nine are enough.
    """
    patient = {"slo": SLO(ttft_s=100.0)}
    lines = iterations(
        andes(max_num_batched_tokens=64),
        {"A": (33, 2), "B": (10, 1), "C": (2, 1)},
        {"B": 2, "C": 2},
        blocks=blocks,
        requests={"A": READER, "B": patient, "C": patient},
    )
    assert lines[:2] == ["A33 used 9", line]


def test_missing_text_counts_by_its_square() -> None:
    assert [_quality(given, 4.0) for given in (0, 2, 4, 9)] == [0.0, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("interval_steps", 0, "at least 1, got 0"),
        ("pressure", 1.5, "from 0 to 1, got 1.5"),
        ("horizon_s", 0.0, "above 0, got 0"),
        ("default_ttft_s", -1.0, "above 0, got -1"),
        ("default_tpot_s", 0.0, "above 0, got 0"),
        ("preemptions_per_request", -1.0, "at least 0, got -1"),
    ],
)
def test_bad_settings_are_refused(name: str, value: float, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"scheduler\.{name}: expected {expected}"):
        make_engine(andes(**{name: value}), 10)
