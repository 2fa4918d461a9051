"""The feedback queue of `fastserve`: who stands in which level, and when a quantum is used up."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from dataclasses import dataclass
from math import inf
from typing import Final

from superinfer.sequence import Sequence

LEAST_RATIO: Final = 1.01
"""Of a quantum over the one above it; nearer to 1 too many levels come before a long one."""


class Levels:
    """Levels of growing quanta of running time; there is no lowest one."""

    def __init__(self, base_quantum_s: float, quantum_ratio: float) -> None:
        self._ratio = quantum_ratio
        self._quanta_s = [base_quantum_s]
        """Of the first levels, as many as somebody asked for."""
        self._turns: dict[Sequence, Turn] = {}
        self._alarms = Alarms()
        """When the running ones have used their quanta."""

    def __len__(self) -> int:
        """Requests in all levels."""
        return len(self._turns)

    def first_covering(self, seconds: float) -> int:
        """The first level whose quantum is so long."""
        while self._quanta_s[-1] < seconds:
            self._add_level()
        return bisect_left(self._quanta_s, seconds)

    def enter(self, seq: Sequence, level: int) -> None:
        """A request arrives in a level."""
        arrival_s = seq.request.arrival_s
        self._turns[seq] = Turn(level, arrival_s, self._quantum_s(level), arrival_s)

    def forget(self, seq: Sequence) -> None:
        """A request has ended."""
        del self._turns[seq]
        self._alarms.drop(seq)

    def level(self, seq: Sequence) -> int:
        """The level that a request is in."""
        return self._turns[seq].level

    def place(self, seq: Sequence) -> tuple[float, float]:
        """The level, and when the request entered it: the lower comes first."""
        turn = self._turns[seq]
        return float(turn.level), turn.since_s

    def start(self, seq: Sequence, now: float) -> None:
        """Its quantum runs from now on."""
        turn = self._turns[seq]
        turn.running_since_s = now
        self._alarms.set(seq, turn, now + turn.left_s)

    def stop(self, seq: Sequence, now: float) -> None:
        """What is left of its quantum is kept for its next turn; nothing happens to one that did
        not run, and it starves on.
        """
        turn = self._turns[seq]
        self._alarms.drop(seq)
        if turn.running_since_s is None:
            return
        turn.left_s -= now - turn.running_since_s
        turn.running_since_s = None
        turn.off_since_s = now

    def next_sink_s(self) -> float:
        """When the next one has used its quantum; inf if nobody runs."""
        return self._alarms.next_s()

    def sink(self, now: float) -> list[Sequence]:
        """One level down for everybody who used a quantum by now, at the moment of using it.
        Returns who that is, maybe more than once.
        """
        sunk: list[Sequence] = []
        while self._alarms.next_s() <= now:
            used_s, seq = self._alarms.pop()
            turn = self._turns[seq]
            turn.level += 1
            turn.since_s = turn.running_since_s = used_s
            turn.left_s = self._quantum_s(turn.level)
            self._alarms.set(seq, turn, used_s + turn.left_s)
            sunk.append(seq)
        return sunk

    def lift(self, now: float, starvation_s: float) -> list[Sequence]:
        """The front of level 0 for everybody who has not run for so long; returns who that is."""
        lifted: list[Sequence] = []
        for seq, turn in self._turns.items():
            starved = turn.off_since_s + starvation_s <= now
            if turn.running_since_s is None and starved:
                turn.level, turn.since_s = 0, -inf
                turn.left_s = self._quantum_s(0)
                lifted.append(seq)
        return lifted

    # -- inside ---------------------------------------------------------------------------------

    def _quantum_s(self, level: int) -> float:
        while len(self._quanta_s) <= level:
            self._add_level()
        return self._quanta_s[level]

    def _add_level(self) -> None:
        try:
            growth = float(self._ratio ** len(self._quanta_s))
        except OverflowError:
            growth = inf
        self._quanta_s.append(self._quanta_s[0] * growth)


@dataclass(slots=True, eq=False)
class Turn:
    """Where a request stands in the queues."""

    level: int
    since_s: float
    """When it entered the level: its place there."""
    left_s: float
    """Running time left of its quantum when it last came in or went out."""
    off_since_s: float
    """When it ran last, or arrived."""
    running_since_s: float | None = None
    """None while it does not run."""
    ticket: int = 0
    """Names the latest alarm that is set for it."""


class Alarms:
    """Times at which something happens to a request; setting one replaces the one before."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int, Sequence]] = []
        self._turns: dict[Sequence, Turn] = {}
        self._tickets = 0

    def set(self, seq: Sequence, turn: Turn, time_s: float) -> None:
        """Ring at `time_s`; of equal times the earlier arrival rings first."""
        self._tickets += 1
        turn.ticket = self._tickets
        self._turns[seq] = turn
        heapq.heappush(self._heap, (time_s, seq.request.index, self._tickets, seq))

    def drop(self, seq: Sequence) -> None:
        """Do not ring for it any more."""
        self._turns.pop(seq, None)

    def next_s(self) -> float:
        """When the next one rings; inf if none does."""
        heap = self._heap
        while heap:
            turn = self._turns.get(heap[0][3])
            if turn is not None and turn.ticket == heap[0][2]:
                return heap[0][0]
            heapq.heappop(heap)
        return inf

    def pop(self) -> tuple[float, Sequence]:
        """The one that `next_s` told of."""
        time_s, _, _, seq = heapq.heappop(self._heap)
        return time_s, seq
