"""`Levels`: quanta of 2, 4, 8, ... seconds, by themselves."""

from __future__ import annotations

from math import inf

from harness import request

from superinfer.schedulers.fastserve_levels import Levels
from superinfer.sequence import Sequence


def arrived(levels: Levels, level: int = 0) -> Sequence:
    """A request that arrived at 0 s."""
    seq = Sequence(request(0, 4, 0))
    levels.enter(seq, level)
    return seq


def test_what_is_left_of_a_quantum_is_kept() -> None:
    """It runs from 0 to 1.5 s and from 5 s on: of its 2 s half a second is left, then 4 s."""
    levels = Levels(2.0, 2.0)
    seq = arrived(levels)
    assert levels.next_sink_s() == inf
    levels.start(seq, 0.0)
    levels.stop(seq, 1.5)
    assert levels.next_sink_s() == inf
    levels.start(seq, 5.0)
    assert levels.next_sink_s() == 5.5
    assert levels.sink(5.4375) == []
    assert levels.sink(5.5) == [seq]
    assert levels.place(seq) == (1.0, 5.5) and levels.next_sink_s() == 9.5


def test_one_that_is_stopped_twice_has_run_once() -> None:
    """It is passed over at 1 s, and moved out at 3 s."""
    levels = Levels(2.0, 2.0)
    seq = arrived(levels)
    levels.start(seq, 0.0)
    levels.stop(seq, 1.0)
    levels.stop(seq, 3.0)
    assert levels.lift(5.0, 4.0) == [seq]


def test_who_has_not_run_for_so_long_rises_with_a_whole_quantum() -> None:
    """From level 2, of 8 s, at the very moment; who runs does not."""
    levels = Levels(2.0, 2.0)
    seq = arrived(levels, 2)
    assert levels.lift(3.9375, 4.0) == []
    assert levels.lift(4.0, 4.0) == [seq]
    assert levels.place(seq) == (0.0, -inf)
    levels.start(seq, 4.0)
    assert levels.next_sink_s() == 6.0
    assert levels.lift(5.9375, 1.0) == []


def test_the_first_level_that_covers_a_time() -> None:
    levels = Levels(2.0, 2.0)
    assert [levels.first_covering(seconds) for seconds in (2.0, 2.0625, 8.0, 1.0)] == [0, 1, 2, 0]
    assert levels.first_covering(inf) == 1023  # where 2 x 2^l is no number any more


def test_quanta_that_grow_slowly_grow_without_end() -> None:
    """1.125^78 is 9,770 and 1.125^79 10,991: level 79 is the first one of three hours."""
    levels = Levels(1.0, 1.125)
    assert levels.first_covering(3 * 3600.0) == 79
    seq = arrived(levels, 79)
    levels.start(seq, 0.0)
    assert levels.next_sink_s() == 1.125**79 > 3 * 3600.0 > 1.125**78


def test_who_has_ended_is_counted_no_more() -> None:
    levels = Levels(2.0, 2.0)
    seq = arrived(levels)
    levels.start(seq, 0.0)
    assert len(levels) == 1
    levels.forget(seq)
    assert len(levels) == 0 and levels.next_sink_s() == inf
