"""When a run says that it was sent more than it could serve."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from superinfer.lab.notices.overload import ALIKE, TOO_HIGH, left_over_s, overload_warning
from superinfer.lab.studies.targets import ClassOutcome

OPEN = {"concurrency": 0, "sessions": "open", "backlog": {}, "in_flight": {}}
ARRIVAL_S = np.arange(100.0)
QUEUED_S = 0.1 + 0.5 * ARRIVAL_S
"""As of a system that serves two requests while three arrive."""


def test_a_queue_that_is_left_over_is_named_with_its_length() -> None:
    found = overload_warning(OPEN, ARRIVAL_S, QUEUED_S)
    assert found.startswith(TOO_HIGH)
    # The last one but one in a hundred, at 98 s, waits 49.1 s.
    assert "arrive for 99 s, and first tokens come for 147 s (TTFT: mean 24.8 s)" in found


def test_waits_that_do_not_outlast_the_arrivals_are_none() -> None:
    assert not overload_warning(OPEN, ARRIVAL_S, np.full(100, 20.0))
    assert overload_warning(OPEN, ARRIVAL_S, np.full(100, 20.0), ALIKE)
    assert not overload_warning(OPEN, ARRIVAL_S, np.full(100, 9.0), ALIKE)


def test_one_long_prompt_at_the_end_is_no_queue() -> None:
    waits = np.full(100, 0.1)
    waits[-1] = 500.0
    assert not overload_warning(OPEN, ARRIVAL_S, waits)


def test_requests_without_a_token_count_for_nothing() -> None:
    waits = QUEUED_S.copy()
    waits[40:] = np.nan
    assert not overload_warning(OPEN, ARRIVAL_S, waits)
    assert not overload_warning(OPEN, ARRIVAL_S, np.full(100, np.nan))


@pytest.mark.parametrize(
    "load",
    [
        {"concurrency": 4},
        {"sessions": "closed"},
        {"backlog": {"batch": 9}},
        {"in_flight": {"batch": 2}},
    ],
)
def test_a_loop_that_waits_for_answers_has_no_overload(load: dict[str, object]) -> None:
    assert not overload_warning({**OPEN, **load}, ARRIVAL_S, QUEUED_S)


def test_few_requests_or_a_short_trace_tell_nothing() -> None:
    assert not overload_warning(OPEN, ARRIVAL_S[:59], QUEUED_S[:59])
    assert not overload_warning(OPEN, ARRIVAL_S / 4, QUEUED_S)


def grows(waits_s: Any) -> bool:
    view: Any = SimpleNamespace(
        arrival_s=ARRIVAL_S,
        ttft_s=waits_s,
        tpot_s=waits_s,
        e2el_s=waits_s,
        finished=np.full(ARRIVAL_S.size, True),
    )
    return ClassOutcome(view, np.arange(ARRIVAL_S.size)).grows()


def test_until_when_a_queue_was_served() -> None:
    assert left_over_s(ARRIVAL_S, QUEUED_S) == pytest.approx(98 + 49.1)
    assert left_over_s(ARRIVAL_S, np.full(100, 20.0)) == 0.0


def test_a_queue_of_which_the_latest_are_served_first() -> None:
    """Their waits become ever shorter, and yet the first are served long after the last arrival."""
    assert grows(200.0 - ARRIVAL_S)
    assert grows(QUEUED_S)
    assert not grows(np.full(100, 20.0))
