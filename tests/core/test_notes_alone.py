"""A scheduler that tells of decisions and runs nothing yet."""

from __future__ import annotations

from dataclasses import dataclass

from harness import BlockingDriver, make_engine, request

from superinfer.draft import Draft
from superinfer.schedulers.fcfs import FcfsScheduler
from superinfer.sequence import Sequence

BEGIN_S = 5.0


@dataclass
class Patient(FcfsScheduler):
    """Waits until a time, and demotes who is there whenever it is asked before."""

    def submit(self, seq: Sequence, now: float) -> None:
        FcfsScheduler.submit(self, seq, now)
        self.seq = seq

    def plan(self, draft: Draft, now: float) -> None:
        if now < BEGIN_S:
            draft.note("demote", self.seq)
        else:
            FcfsScheduler.plan(self, draft, now)

    def next_wakeup(self, now: float) -> float | None:
        return BEGIN_S if now < BEGIN_S else None


def test_notes_alone_are_no_moves() -> None:
    """Two tokens in two steps of a second each, from the time for which it is woken on."""
    engine = make_engine(Patient(), 8)
    driver = BlockingDriver(engine, [request(0, 4, 2)], [2])
    driver.run()
    (seq,) = engine.recorder.sequences
    assert (seq.outcome, seq.finish_s) == ("finished", BEGIN_S + 2.0)
