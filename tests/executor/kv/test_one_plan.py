"""Every order in which one plan may move a request about: executor and core count the same."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import pytest
from placed_machine import DECISIONS, Placed
from tiered import ShrinkingLru

from superinfer.draft import Draft
from superinfer.errors import PlanError
from superinfer.memory.base import Timing
from superinfer.sequence import Sequence, State

Move = tuple[str, Timing]
MOVES: tuple[Move, ...] = (
    ("swap_out", "before_step"),
    ("swap_out", "background"),
    ("swap_in", "before_step"),
    ("swap_in", "background"),
    ("park", "before_step"),
    ("unpark", "before_step"),
    ("preempt", "before_step"),
    ("admit", "before_step"),
)
ENDS: dict[str, tuple[str, str]] = {
    "swap_in": ("swapped", "decoding"),
    "park": ("decoding", "parked"),
    "unpark": ("parked", "decoding"),
    "preempt": ("resident", "waiting"),
    "admit": ("waiting", "prefilling"),
}
"""Where a request stands before a move and after it; a copy in the background leaves it between."""
RESIDENT = ("decoding", "parked", "prefilling")


def after(state: str, move: Move) -> str:
    """Where a request stands after a move; nowhere if that is none of it."""
    kind, timing = move
    if kind == "swap_out":
        end = "swapped" if timing == "before_step" else ""
        return end if state in RESIDENT else "impossible"
    before, end = ENDS[kind]
    if state != before and not (before == "resident" and state in RESIDENT):
        return "impossible"
    return end if timing == "before_step" else ""


def orders(moves: int) -> Iterator[tuple[str, tuple[Move, ...]]]:
    """All that can be decided about one request in a plan, by where it stands before."""
    for state, chosen in product(("decoding", "swapped", "waiting"), product(MOVES, repeat=moves)):
        end = state
        for move in chosen:
            end = after(end, move)
        if end != "impossible":
            yield state, chosen


class Directed(Placed):
    """Two requests, the first of which is moved about."""

    def __init__(self, lag: int, write_through: bool, prefix: bool) -> None:
        super().__init__()
        self.copying = write_through
        self.begin(lag, prefix, 2, 40, ShrinkingLru(), [(21, 0, 16), (9, 0, 16)], 0)
        self.scheduler.chunk_tokens, self.scheduler.steps = 32, 6
        self.first = self.engine.recorder.sequences[0]
        for _ in range(4):
            self.plan()

    def plan(self, *moves: Move) -> None:
        """A plan with these moves; copies in the background land before the next one."""
        self.scheduler.script += [partial(self._move, move) for move in moves]
        self.scheduler.copies = 12 if self.copying else 0
        self._step()
        self.go_on(400, 0)
        if not self.running:
            self.counts_agree()

    def come_back(self) -> None:
        """A few plans in which it goes on from wherever it is."""
        ways: dict[State, Move] = {
            State.SWAPPED: ("swap_in", "before_step"),
            State.WAITING: ("admit", "before_step"),
            State.PARKED: ("unpark", "before_step"),
        }
        for _ in range(4):
            way = ways.get(self.first.state)
            self.plan(*[way] if way else [])
        assert self.first.state is State.DECODING

    def _move(self, move: Move, draft: Draft) -> None:
        kind, timing = move
        states, act = DECISIONS[kind]
        if self.first.state in states:
            act(draft, self.first, timing)


def check_all(moves: int) -> None:
    for state, chosen in orders(moves):
        for lag, write_through, prefix in product((0, 1), (True, False), (True, False)):
            case = Directed(lag, write_through, prefix)
            if state == "swapped":
                case.plan(("swap_out", "before_step"))
            elif state == "waiting":
                case.plan(("preempt", "before_step"))
            case.plan(*chosen)
            case.come_back()
            case.teardown()


@pytest.mark.parametrize("moves", [1, 2, 3])
def test_a_few_moves_in_one_plan(moves: int) -> None:
    check_all(moves)


@pytest.mark.slow
@pytest.mark.parametrize("moves", [4, 5])
def test_many_moves_in_one_plan(moves: int) -> None:
    check_all(moves)


def test_who_is_admitted_does_not_leave_for_the_host_in_the_same_plan() -> None:
    """Nothing of it is computed yet, and what it shares may still be on its way."""
    case = Directed(0, False, True)
    case.plan(("preempt", "before_step"))
    found: list[Sequence] = []

    def both(draft: Draft) -> None:
        assert draft.try_admit(case.first)
        assert draft.admits(case.first)
        with pytest.raises(PlanError, match=r"r0.*: admitted by this plan, .* the host"):
            draft.swap_out(case.first, "background")
        with pytest.raises(PlanError, match="admitted by this plan"):
            draft.preempt(case.first, "swap")
        found.append(case.first)

    case.scheduler.script.append(both)
    case.plan()
    assert found == [case.first] and case.first.host_blocks == 0
    case.come_back()


def test_copies_ahead_are_no_longer_of_use_for_who_was_dropped() -> None:
    """A cache that was written through and dropped is asked about after its admission."""
    case = Directed(0, True, False)
    asked = []

    def look(draft: Draft) -> None:
        before = draft.dirty(case.first).number
        draft.preempt(case.first, "recompute")
        draft.try_admit(case.first)
        asked.append((before, draft.held_blocks(case.first), draft.dirty(case.first).number))

    case.scheduler.script.append(look)
    case.plan()
    ((before, held, dirty),) = asked
    assert 0 < before < 6 and held == dirty == 0
