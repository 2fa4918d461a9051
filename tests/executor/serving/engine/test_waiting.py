"""How long queues are, and how long they take."""

from __future__ import annotations

from executor.serving.engine.waiting import Waiting

CHAT, BATCH = (0, False), (0, True)


def test_only_those_that_are_as_urgent_count() -> None:
    waiting = Waiting()
    for index, urgency in enumerate([BATCH, CHAT, BATCH]):
        waiting.add(index, urgency, 0.0)
    assert (waiting.number(), waiting.number(CHAT), waiting.number((-1, True))) == (3, 1, 0)
    waiting.begin(1, CHAT, 2.0)
    waiting.drop(1, CHAT)
    waiting.drop(0, BATCH)
    assert (waiting.number(), waiting.number(CHAT)) == (1, 0)
    waiting.clear()
    assert not waiting.number()


def test_a_wait_is_expected_as_it_was_for_the_like() -> None:
    waiting = Waiting()
    assert waiting.expected_s(CHAT, 5.0) == 0.0, "nobody has waited yet"
    for index, urgency in enumerate([CHAT, BATCH, CHAT, BATCH]):
        waiting.add(index, urgency, float(index))
    waiting.begin(0, CHAT, 3.0)
    waiting.begin(2, CHAT, 2.5)
    waiting.begin(1, BATCH, 41.0)
    assert waiting.expected_s(CHAT, 50.0) == 0.5, "the latest"
    assert waiting.expected_s(BATCH, 42.0) == 40.0
    assert waiting.expected_s(BATCH, 63.0) == 60.0, "the one that still waits came at 3 s"


def test_the_more_urgent_come_before() -> None:
    waiting = Waiting()
    waiting.add(0, CHAT, 3.0)
    assert waiting.expected_s(BATCH, 20.0) == 17.0
    assert waiting.expected_s((-1, True), 20.0) == 0.0
    waiting.begin(0, CHAT, 33.0)
    assert waiting.expected_s(BATCH, 40.0) == 30.0
