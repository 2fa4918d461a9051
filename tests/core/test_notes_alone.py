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


@dataclass
class Thorough(FcfsScheduler):
    """Promotes one request each time that it is asked, and plans when none is left."""

    def __post_init__(self) -> None:
        FcfsScheduler.__post_init__(self)
        self.fresh: list[Sequence] = []

    def submit(self, seq: Sequence, now: float) -> None:
        FcfsScheduler.submit(self, seq, now)
        self.fresh.append(seq)

    def plan(self, draft: Draft, now: float) -> None:
        if self.fresh:
            draft.note("promote", self.fresh.pop())
        else:
            FcfsScheduler.plan(self, draft, now)


def test_notes_of_one_after_the_other() -> None:
    engine = make_engine(Thorough(), 8)
    BlockingDriver(engine, [request(index, 4, 2) for index in range(3)], [2, 2, 2]).run()
    assert [seq.finish_s for seq in engine.recorder.sequences] == [2.0, 2.0, 2.0]


def test_notes_alone_are_no_moves() -> None:
    """Two tokens in two steps of a second each, from the time for which it is woken on."""
    engine = make_engine(Patient(), 8)
    driver = BlockingDriver(engine, [request(0, 4, 2)], [2])
    driver.run()
    (seq,) = engine.recorder.sequences
    assert (seq.outcome, seq.finish_s) == ("finished", BEGIN_S + 2.0)
