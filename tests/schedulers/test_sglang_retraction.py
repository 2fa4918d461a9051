"""SGLang's retraction of running requests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from harness import request
from sglang_runs import run

from superinfer.draft import Draft
from superinfer.schedulers.sglang import SglangScheduler
from superinfer.schedulers.sglang.retraction import retract
from superinfer.schedulers.sglang.running import RunningBatch
from superinfer.sequence import Sequence

S2 = {"A": (6, 8, 8), "B": (4, 8, 8), "C": (2, 8, 8)}


@pytest.mark.parametrize("version", ["0.4.6", "0.4.1"])
def test_s2_retraction(version: Any) -> None:
    """it8: a token is free for three decodes. C has emitted 4, A and B 5. The ratio becomes
    (5 + 5 + 2 * 2) / 16 = 0.875, so at it9 C's 6 + 8 find 24 - 20 - 0.875 * 4 = 0.5.
    """
    scheduler = SglangScheduler(
        version, schedule_conservativeness=1 / 7, retract_decode_steps=2, stream=True
    )
    assert run(scheduler, S2, {"B": 2, "C": 4}, pool=24) == [
        "A6 used 6",
        "B4 used 10",
        "AB used 12",
        "C2 used 14",
        "ABC used 17",
        "ABC used 20",
        "ABC used 23",
        "-C AB used 20",
        "AB used 22",
        "AB used 24",
        "C6 used 6",
        "C used 7",
        "C used 8",
        "C used 9",
    ]


def test_a_retracted_request_goes_to_the_end_of_the_queue() -> None:
    """As S2, with D in the queue when C is retracted: 24 - 2 - 8 are not more than C's 14."""
    jobs = S2 | {"D": (2, 1, 8)}
    scheduler = SglangScheduler(schedule_conservativeness=1 / 7, retract_decode_steps=2)
    lines = run(scheduler, jobs, {"B": 2, "C": 4, "D": 7}, pool=24)
    assert lines[7:12] == ["-C AB used 20", "AB used 22", "AB used 24", "D2 used 2", "C6 used 6"]


def test_a_retraction_gives_a_new_ratio_and_idleness_the_first() -> None:
    """S2 again: 0.875 after the retraction in the fifth decode step, 0.1 at the end."""
    ratios: list[float] = []

    class Spy(SglangScheduler):
        def _retract(self, draft: Draft) -> None:
            SglangScheduler._retract(self, draft)
            ratios.append(self._ratio.at(draft.batch.step + 1))

    spy = Spy(schedule_conservativeness=1 / 7, retract_decode_steps=2)
    run(spy, S2, {"B": 2, "C": 4}, pool=24)
    assert ratios == [0.875]
    assert spy._ratio.at(10) == pytest.approx(0.1)


def test_ties_go_to_the_longest_prompt_and_then_to_the_latest() -> None:
    """Room for 9 more steps is asked for: B goes, too, behind C in the queue. A never does."""
    jobs = {"A": (5, 6, 8), "B": (7, 6, 8), "C": (7, 6, 8)}
    scheduler = SglangScheduler(clip_new_tokens=2, retract_decode_steps=9)
    assert run(scheduler, jobs, pool=27) == [
        "A5 B7 C7 used 19",
        "ABC used 22",
        "ABC used 25",
        "-C -B A used 8",
        "C10 used 18",
        "AC used 20",
        "AC used 22",
        "B10 used 10",
        "B used 11",
        "B used 12",
    ]


@pytest.mark.interpreted
@pytest.mark.parametrize(("tokens", "left"), [(12, ["r0", "r1"]), (13, ["r0"])])
def test_room_for_the_next_steps_is_counted_in_tokens(tokens: int, left: list[str]) -> None:
    """Of three requests with 6 blocks of 4 tokens each the latest goes. Two are left, and a step of
    both needs the 6 blocks that are free now: they are enough for 12 steps, and not for 13.
    """

    class Held:
        available = 0
        cleared: int | None = None

        def preempt(self, seq: Sequence, how: str) -> None:
            self.available += 6

        def clear(self, blocks: int) -> None:
            self.cleared = blocks

    members = [Sequence(request(index, 8, 0)) for index in range(3)]
    for place, seq in enumerate(members):
        seq.rank = (place,)
    draft: Any = Held()
    draft.batch = SimpleNamespace(
        members=members, output_tokens=lambda seq: 5, next_growth=lambda: 6
    )
    victims, rest = retract(draft, 4, tokens)
    assert [seq.request.request_id for seq in rest] == left
    assert victims[0] is members[2]
    assert draft.cleared == -(-tokens * len(left) // 4)


@pytest.mark.interpreted
def test_who_comes_in_beside_decodes_sits_in_front_and_others_behind() -> None:
    """Places decide ties of a retraction: they follow the order of the batch."""
    running, members = RunningBatch(64), [Sequence(request(index, 8, 0)) for index in range(8)]
    draft: Any = SimpleNamespace(batch=SimpleNamespace(step=0, output_tokens=lambda seq: 1))
    for first, in_front in ((0, False), (2, True), (4, False), (6, False)):
        running.seat(draft, members[first : first + 2], lambda seq: 8, in_front=in_front)
    names = [seq.request.index for seq in sorted(members, key=lambda seq: seq.rank)]
    assert names == [2, 3, 0, 1, 4, 5, 6, 7]


def test_a_retracted_request_that_needs_its_whole_limit_again_may_never_fit() -> None:
    """B has emitted 9 when it goes: 6 + 9 + 15 exceed the 27 tokens. The real engine waits."""
    jobs = {"A": (5, 14, 20), "B": (6, 14, 15)}
    scheduler = SglangScheduler(schedule_conservativeness=0.01, retract_decode_steps=2)
    events: list[Any] = []
    lines = run(scheduler, jobs, pool=27, sink=events.append)
    assert lines[9:] == ["AB used 27", "-B A used 14", *(f"A used {n}" for n in (15, 16, 17, 18))]
    assert [event[2:] for event in events if event[1] == "reject"] == [
        ("B", "retracted_never_fits")
    ]


def test_alone_with_a_full_pool() -> None:
    events: list[Any] = []
    lines = run(SglangScheduler(), {"A": (5, 40, 100)}, pool=20, sink=events.append)
    assert lines[-1] == "A used 20"
    assert events[-1][1:] == ("fail", "A", "answer_exceeds_kv_capacity")
