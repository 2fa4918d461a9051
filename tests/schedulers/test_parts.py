"""Queues ordered by rank."""

from __future__ import annotations

import pytest
from harness import request
from hypothesis import given, settings
from hypothesis import strategies as st

from superinfer.errors import PlanError
from superinfer.heaps import FEWEST
from superinfer.schedulers.parts import RankedList, RankedQueue
from superinfer.sequence import Sequence, State

SETTINGS = settings(deadline=None, derandomize=True, max_examples=100)
RANKS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50)), unique=True, max_size=20)


def ranked(*rank: float) -> Sequence:
    seq = Sequence(request(0, 1, 0))
    seq.rank = rank
    return seq


@SETTINGS
@given(ranks=RANKS, gone=st.sets(st.integers(0, 19)))
def test_queue_gives_lowest_rank_first_and_passes_over_others(
    ranks: list[tuple[int, int]], gone: set[int]
) -> None:
    queue = RankedQueue(State.WAITING)
    sequences = [ranked(*rank) for rank in ranks]
    for seq in sequences:
        queue.push(seq)
    for index in gone:
        if index < len(sequences):
            sequences[index].state = State.ENDED
    served = []
    while (seq := queue.head()) is not None:
        assert queue.head() is seq
        served.append(seq.rank)
        queue.pop()
    assert served == sorted(seq.rank for seq in sequences if seq.state is State.WAITING)


@SETTINGS
@given(steps=st.lists(st.tuples(st.sampled_from(["push", "pop", "end"]), st.integers(0, 1 << 20))))
def test_queue_against_a_list(steps: list[tuple[str, int]]) -> None:
    queue, plain = RankedQueue(State.SWAPPED), []
    for number, (what, value) in enumerate(steps):
        if what == "push":
            seq = ranked(value, number)
            seq.state = State.SWAPPED
            queue.push(seq)
            plain.append(seq)
        elif plain and what == "end":
            plain.pop(value % len(plain)).state = State.ENDED
        elif plain:
            assert queue.head() is not None
            queue.pop()
            plain.remove(min(plain, key=lambda seq: seq.rank))
        expected = min(plain, key=lambda seq: seq.rank, default=None)
        assert queue.head() is expected


def test_queue_holds_a_sequence_again_after_it_came_back() -> None:
    queue = RankedQueue(State.WAITING)
    seq = ranked(1.0)
    queue.push(seq)
    queue.pop()
    seq.state = State.PREFILLING
    assert queue.head() is None
    seq.state = State.WAITING
    queue.push(seq)
    assert queue.head() is seq


def test_queue_forgets_who_ended_behind_a_head_that_stays() -> None:
    """And former ranks; who is in another state for now is kept."""
    queue = RankedQueue(State.WAITING)
    first, away, moved = ranked(0.0), ranked(1.0), ranked(2.0)
    for seq in (first, away, moved):
        queue.push(seq)
    away.state = State.PREFILLING
    for number in range(5 * FEWEST):
        seq = ranked(3.0, number)
        queue.push(seq)
        seq.state = State.ENDED
        moved.rank = (4.0, number)
        queue.push(moved)
        assert queue.head() is first
    assert len(queue._heap) <= FEWEST + 1
    away.state = State.WAITING
    for seq in (first, away, moved):
        assert queue.head() is seq
        queue.pop()


@SETTINGS
@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 1 << 20)), max_size=40))
def test_list_against_sorting(steps: list[tuple[bool, int]]) -> None:
    ranks, plain = RankedList(), []
    for number, (add, value) in enumerate(steps):
        if add or not plain:
            seq = ranked(value % 7, number)
            ranks.add(seq)
            plain.append(seq)
            plain.sort(key=lambda seq: seq.rank)
        else:
            seq = plain.pop(value % len(plain))
            assert ranks.discard(seq)
            assert not ranks.discard(seq)
        assert list(ranks) == plain
        assert list(reversed(ranks)) == plain[::-1]
        assert len(ranks) == len(plain)
        if plain:
            assert ranks.last() is plain[-1]


def test_list_discards_nobody_else() -> None:
    """A stranger of equal rank is not the member."""
    ranks = RankedList()
    member, stranger = ranked(1.0), ranked(1.0)
    ranks.add(member)
    assert not ranks.discard(stranger)
    assert list(ranks) == [member]


@pytest.mark.parametrize("rank", [1.0, 2.0])
def test_list_refuses_a_rank_that_it_has(rank: float) -> None:
    """The last one as well as any other."""
    ranks = RankedList()
    for place in (1.0, 2.0):
        ranks.add(ranked(place))
    with pytest.raises(PlanError, match="expected unique ranks"):
        ranks.add(ranked(rank))


def test_of_equal_ranks_who_came_first_is_first() -> None:
    """And not who lies where in memory, which differs from run to run."""
    queue = RankedQueue(State.WAITING)
    sequences = [ranked(0) for _ in range(50)]
    pushed = sequences[::2] + sequences[1::2]
    for seq in pushed:
        queue.push(seq)
    served = []
    while (head := queue.head()) is not None:
        served.append(head)
        queue.pop()
    assert served == pushed


def test_a_rank_that_does_not_compare_has_no_place() -> None:
    nan = float("nan")
    with pytest.raises(PlanError, match="expected no nan in it"):
        RankedQueue(State.WAITING).push(ranked(nan, 1))
    items = RankedList()
    for rank in ((nan, 2), (1, nan)):  # into an empty list, and behind the last one
        with pytest.raises(PlanError, match="expected no nan in it"):
            items.add(ranked(*rank))
        items.add(ranked(0, 1 + len(items)))
