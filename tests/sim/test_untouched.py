"""A policy from outside that changes what a run is counted from is found out."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from specs import workload

from sim.run import run_simulation
from superinfer.draft import Draft
from superinfer.errors import PlanError
from superinfer.lab.config import load_config
from superinfer.request import Request
from superinfer.routers.round_robin import RoundRobinRouter
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.sequence import Sequence, State

CHATS = {"class": "chat", "rate_per_s": 2, "prompt": 200, "answer": 200}


@dataclass
class Honest(FcfsScheduler):
    """Changes nothing."""


@dataclass
class Shortens(FcfsScheduler):
    """Makes the second prompt shorter."""

    def submit(self, seq: Sequence, now: float) -> None:
        """A request arrived."""
        if seq.request.index == 1:
            seq.request.prompt_tokens = 7
        FcfsScheduler.submit(self, seq, now)


@dataclass
class Hurries(FcfsScheduler):
    """Makes the second request come later than it did."""

    def submit(self, seq: Sequence, now: float) -> None:
        """A request arrived."""
        if seq.request.index == 1:
            seq.request.arrival_s += 1.0
        FcfsScheduler.submit(self, seq, now)


@dataclass
class Likens(RoundRobinRouter):
    """Makes the second prompt begin like others, which a prefix cache then finds."""

    def route(self, request: Request, now: float) -> int:
        """In turn."""
        if request.index == 1:
            request.hash_ids = (1,)
        return RoundRobinRouter.route(self, request, now)


@dataclass
class Adds(FcfsScheduler):
    """Gives the second request tokens that nobody computed."""

    def plan(self, draft: Draft, now: float) -> None:
        """The usual plan."""
        for seq in self.running:
            if seq.request.index == 1 and seq.state is State.DECODING:
                seq.output_tokens += 4
        FcfsScheduler.plan(self, draft, now)


@dataclass
class Renames(RoundRobinRouter):
    """Gives the second request to another tenant."""

    def route(self, request: Request, now: float) -> int:
        """In turn."""
        if request.index == 1:
            request.tenant = "other"
        return RoundRobinRouter.route(self, request, now)


def simulate(folder: Path, monkeypatch: pytest.MonkeyPatch, **run: Any) -> int:
    """Requests that finish, with policies of this file."""
    monkeypatch.setitem(sys.modules, "mine", sys.modules[__name__])
    config = load_config(None, [], **run)
    found = run_simulation(config, workload(folder, duration_s=10, a=CHATS))
    return found.record.table.state.count("finished")


@pytest.mark.parametrize(
    ("policies", "words"),
    [
        ({"scheduler": "mine:Shortens"}, "prompt_tokens: expected 200, got 7 after the run: only"),
        ({"scheduler": "mine:Shortens", "concurrency": 2}, "prompt_tokens: expected 200, got 7"),
        ({"scheduler": "mine:Hurries"}, "arrival_s: expected "),
        ({"scheduler": "mine:Adds"}, "output_tokens: expected 200, got "),
        ({"router": "mine:Renames", "replicas": 2}, "tenant: expected default, got other after"),
        ({"router": "mine:Likens", "replicas": 2}, "hash_ids: expected ("),
    ],
)
def test_what_was_changed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policies: dict[str, Any], words: str
) -> None:
    with pytest.raises(PlanError) as caught:
        simulate(tmp_path, monkeypatch, **policies)
    assert f"request 2: {words}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "run", [{}, {"lag": 1}, {"replicas": 2}, {"concurrency": 2}, {"duration_s": 9}]
)
def test_an_honest_policy_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: dict[str, Any]
) -> None:
    assert simulate(tmp_path, monkeypatch, scheduler="mine:Honest", **run) > 5
