"""The queue of waiting requests in vLLM's V1 engine (`vllm/v1/core/sched/request_queue.py`)."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator

from superinfer.heaps import FEWEST, sweep
from superinfer.sequence import Sequence


class WaitingQueue:
    """First come, first served, or by `Sequence.rank`."""

    __slots__ = ("_aside", "_heap", "_members", "_most", "_ranked")

    def __init__(self, ranked: bool) -> None:
        self._ranked = ranked
        self._members: OrderedDict[Sequence, None] = OrderedDict()
        self._heap: list[tuple[tuple[float, ...], int, Sequence]] = []
        """Those that left are passed over."""
        self._most = FEWEST
        """With more entries than this, those of who left are looked for."""
        self._aside: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._members) + len(self._aside)

    def __iter__(self) -> Iterator[Sequence]:
        """All, in no order."""
        yield from self._members
        yield from self._aside

    def add(self, seq: Sequence) -> None:
        """A new request."""
        self._members[seq] = None
        if self._ranked:
            if len(self._heap) > self._most:
                self._most = sweep(self._heap, self._holds)
            heapq.heappush(self._heap, (seq.rank, id(seq), seq))

    def put_back(self, seq: Sequence) -> None:
        """A preempted request: it comes first, or by rank."""
        self.add(seq)
        self._members.move_to_end(seq, last=False)

    def discard(self, seq: Sequence) -> None:
        """Remove if present."""
        self._members.pop(seq, None)

    def head(self) -> Sequence | None:
        """Whose turn it is."""
        if not self._ranked:
            return next(iter(self._members), None)
        heap = self._heap
        while heap and heap[0][2] not in self._members:
            heapq.heappop(heap)
        return heap[0][2] if heap else None

    def pass_over(self, seq: Sequence) -> None:
        """Whose turn it is cannot come in now: the next one is looked at."""
        del self._members[seq]
        self._aside.append(seq)

    def end_pass(self) -> None:
        """Those passed over are back in their places."""
        while self._aside:
            self.put_back(self._aside.pop())

    def _holds(self, entry: tuple[tuple[float, ...], int, Sequence]) -> bool:
        """False for who left, who is queued anew on coming back."""
        return entry[2] in self._members
