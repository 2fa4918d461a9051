"""The running batch: who is in it, in which order, and what they are expected to take yet."""

from __future__ import annotations

from collections.abc import Callable

from superinfer.draft import Draft
from superinfer.schedulers.sglang.estimate import Reserve
from superinfer.sequence import Sequence


class RunningBatch:
    """Ended requests stay in it, and in its reserve, until it is next filtered."""

    __slots__ = ("_back", "_ended", "_front", "reserve")

    def __init__(self, clip_tokens: int) -> None:
        self.reserve = Reserve(clip_tokens)
        self._ended: list[Sequence] = []
        self._front = self._back = 0
        """Places taken so far at both ends."""

    def __contains__(self, seq: Sequence) -> bool:
        return seq in self.reserve

    def size(self, draft: Draft) -> int:
        """Its requests, ended ones included."""
        return draft.batch.size + len(self._ended)

    def seat(
        self,
        draft: Draft,
        joined: list[Sequence],
        limit_tokens: Callable[[Sequence], int],
        *,
        in_front: bool,
    ) -> None:
        """Give new members places, and a share of the reserve by the limits of their answers."""
        batch = draft.batch
        if in_front:
            self._front -= len(joined)
        first = self._front if in_front else self._back
        for place, seq in enumerate(joined, first):
            seq.rank = (place,)
            left = limit_tokens(seq) - batch.output_tokens(seq)
            self.reserve.add(seq, left, batch.step)
        if not in_front:
            self._back += len(joined)

    def ended(self, seq: Sequence) -> None:
        """A member has ended."""
        self._ended.append(seq)

    def filter(self) -> bool:
        """Drop those that have ended; True if there were some."""
        if not self._ended:
            return False
        for seq in self._ended:
            self.reserve.discard(seq)
        self._ended.clear()
        return True

    def discard(self, seq: Sequence) -> None:
        """A member goes back to the queue."""
        self.reserve.discard(seq)
