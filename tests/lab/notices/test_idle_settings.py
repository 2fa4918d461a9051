"""Settings that the requests at hand make idle."""

from __future__ import annotations

from dataclasses import replace

import pytest

from superinfer.lab.config import load_config
from superinfer.lab.notices.idle_settings import idle_settings
from superinfer.request import Request
from superinfer.slo_classes import PRESETS


def turns(delay_s: float | None) -> list[Request]:
    """Two of one session."""
    first = Request("0", 0.0, 9, 9, slo_class=PRESETS["chat"], session_id="s")
    return [first, replace(first, request_id="1", delay_s=delay_s)]


@pytest.mark.parametrize("pool", ["backlog", "in_flight"])
def test_turns_that_wait_for_no_other_turn(pool: str) -> None:
    closed = load_config(settings=[f"run.{pool}.chat=2", "run.sessions=closed"])
    (line,) = idle_settings(closed, turns(1.0))
    assert line.startswith("run.sessions: not used with class chat: ")
    assert idle_settings(closed, turns(None)) == []


@pytest.mark.parametrize(
    "settings", [["run.sessions=closed"], ["run.in_flight.chat=2"], ["run.backlog.chat=2"]]
)
def test_turns_that_are_sent_as_is_asked_for(settings: list[str]) -> None:
    assert idle_settings(load_config(settings=settings), turns(1.0)) == []


def test_another_class_with_a_backlog_tears_no_session() -> None:
    closed = load_config(settings=["run.backlog.batch=2", "run.sessions=closed"])
    assert idle_settings(closed, turns(1.0)) == []
