"""The list of active requests, by who has started."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter

from superinfer.schedulers.parts import RankedList
from superinfer.sequence import Sequence, State

_rank = attrgetter("rank")


@dataclass(slots=True)
class Queues:
    """Active requests, each list in the order of service."""

    waiting: RankedList = field(default_factory=RankedList)
    """Not started, or paused: they keep their place in the order."""
    running: RankedList = field(default_factory=RankedList)
    """Those that hold blocks."""
    prefilling: RankedList = field(default_factory=RankedList)
    """Of these, the ones whose prompt is not complete."""

    @property
    def decode_only(self) -> bool:
        """True if nobody waits, and everybody who runs has a whole prompt."""
        return not (len(self.waiting) or len(self.prefilling))

    @property
    def in_turn(self) -> bool:
        """True if everybody who runs comes before everybody who waits."""
        if not (len(self.waiting) and len(self.running)):
            return True
        return self.running.last().rank < self.waiting.first().rank

    def start(self, seq: Sequence) -> None:
        """It has its blocks."""
        self.waiting.discard(seq)
        self.running.add(seq)
        self.prefilling.add(seq)

    def pause(self, seq: Sequence) -> None:
        """Its blocks were taken away."""
        self.remove(seq)
        self.waiting.add(seq)

    def remove(self, seq: Sequence) -> bool:
        """Forget a request; returns whether it was running."""
        self.prefilling.discard(seq)
        return self.running.discard(seq) or (self.waiting.discard(seq) and False)


def in_order(started: list[Sequence], waiting: Iterable[Sequence]) -> Iterator[Sequence]:
    """Both lists as one."""
    if not started:
        return iter(waiting)
    return heapq.merge(started, waiting, key=_rank)


def is_context(seq: Sequence) -> bool:
    """True if its prompt is not complete."""
    return seq.state in (State.WAITING, State.PREFILLING)


def remaining_tokens(seq: Sequence) -> int:
    """Tokens of the prompt that are still to be computed."""
    return seq.prefill_tokens - seq.computed_tokens
