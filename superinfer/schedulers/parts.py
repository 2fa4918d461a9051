"""Small shared parts of schedulers: queues ordered by `Sequence.rank`."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterator
from math import inf
from operator import attrgetter

from superinfer.costs.capacity import LargestStep
from superinfer.draft import Draft
from superinfer.errors import ConfigError, PlanError
from superinfer.heaps import FEWEST, sweep
from superinfer.request import Request
from superinfer.sequence import Sequence, State
from superinfer.settings import shown_value

_rank = attrgetter("rank")


def check_limits(max_num_seqs: int, max_num_batched_tokens: int, watermark: float) -> None:
    """Refuse limits with which nothing could ever run (ConfigError)."""
    if max_num_seqs < 1:
        raise ConfigError(f"scheduler.max_num_seqs: expected at least 1, got {max_num_seqs}")
    if max_num_batched_tokens < max_num_seqs:
        raise ConfigError(
            f"scheduler.max_num_batched_tokens: expected at least max_num_seqs ({max_num_seqs}), "
            f"got {max_num_batched_tokens}"
        )
    if not 0 <= watermark < 1:
        raise ConfigError(f"scheduler.watermark: expected from 0 to below 1, got {watermark}")


def step_within(max_num_batched_tokens: int, max_num_seqs: int) -> LargestStep:
    """The largest step that these two settings allow; everybody in it gets a token."""
    return LargestStep(
        max_num_batched_tokens,
        min(max_num_seqs, max_num_batched_tokens),
        tokens_by="scheduler.max_num_batched_tokens",
        logits_by="scheduler.max_num_seqs",
    )


def check_positive(name: str, value: float) -> None:
    """Refuse a setting that has to be above 0 (ConfigError)."""
    if not value > 0:
        raise ConfigError(f"scheduler.{name}: expected above 0, got {value:g}")


def check_not_negative(name: str, value: float) -> None:
    """Refuse a setting below 0 (ConfigError)."""
    if not value >= 0:
        raise ConfigError(f"scheduler.{name}: expected at least 0, got {value:g}")


def deadline_s(request: Request) -> float:
    """When the first token is due; without a target for it, the whole answer; else never.

    A floor of tokens/s alone makes the answer due as if it were as long as the request allows.
    """
    slo = request.slo
    if slo.ttft_s is not None:
        return request.arrival_s + slo.ttft_s
    if slo.e2el_s is not None:
        return request.arrival_s + slo.e2el_s
    if slo.min_tokens_per_s is not None:
        return request.arrival_s + request.max_tokens / slo.min_tokens_per_s
    return inf


class RankedQueue:
    """Sequences in one state, lowest rank first and of equal ones who came first. One that left
    that state, or has another rank by now, is passed over.
    """

    __slots__ = ("_heap", "_most", "_pushed", "_state")

    def __init__(self, state: State) -> None:
        self._state = state
        self._heap: list[tuple[tuple[float, ...], int, Sequence]] = []
        self._pushed = 0
        self._most = FEWEST
        """With more entries than this, those that can never hold again are looked for."""

    def push(self, seq: Sequence) -> None:
        """Queue by rank."""
        _check_rank(seq)
        if len(self._heap) > self._most:
            self._most = sweep(self._heap, _may_hold)
        self._pushed += 1  # breaks ties, so that sequences are never compared
        heapq.heappush(self._heap, (seq.rank, self._pushed, seq))

    def head(self) -> Sequence | None:
        """The sequence whose turn it is."""
        heap = self._heap
        while heap:
            rank, _, seq = heap[0]
            if seq.state is self._state and rank is seq.rank:
                return seq
            heapq.heappop(heap)
        return None

    def pop(self) -> None:
        """Remove the head."""
        heapq.heappop(self._heap)


def _check_rank(seq: Sequence) -> None:
    """Refuse a rank that is neither above nor below others: it has no place among them."""
    parts: tuple[object, ...] = seq.rank  # whatever a policy of one's own makes it of
    for part in parts:
        if part != part:  # noqa: PLR0124 - true of nan alone
            raise PlanError(f"{seq!r} has the rank {shown_value(seq.rank)}: expected no nan in it")


def _may_hold(entry: tuple[tuple[float, ...], int, Sequence]) -> bool:
    """False for an entry that is passed over whatever comes: a state may come back, but not that of
    the ended, nor a rank.
    """
    rank, _, seq = entry
    return rank is seq.rank and seq.state is not State.ENDED


class RankedList:
    """Sequences kept sorted by rank; finding a place costs a bisection."""

    __slots__ = ("_items",)

    def __init__(self) -> None:
        self._items: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._items)

    def __reversed__(self) -> Iterator[Sequence]:
        return reversed(self._items)

    def add(self, seq: Sequence) -> None:
        """Insert at its place."""
        _check_rank(seq)
        items = self._items
        if not items or items[-1].rank < seq.rank:
            items.append(seq)
            return
        place = bisect_left(items, seq.rank, key=_rank)
        if items[place].rank == seq.rank:
            raise PlanError(
                f"{seq!r} and {items[place]!r} have the rank {shown_value(seq.rank)}: expected "
                "unique ranks (`request.index` as the last entry makes them so)"
            )
        items.insert(place, seq)

    def discard(self, seq: Sequence) -> bool:
        """Remove if present; returns whether it was."""
        items = self._items
        place = bisect_left(items, seq.rank, key=_rank)
        if place < len(items) and items[place] is seq:
            del items[place]
            return True
        return False

    def first(self) -> Sequence:
        """The one with the lowest rank: whose turn it is."""
        return self._items[0]

    def last(self) -> Sequence:
        """The one with the highest rank: the first victim."""
        return self._items[-1]


def victims_for(
    draft: Draft, seq: Sequence, running: RankedList, need_blocks: int, places: int
) -> list[Sequence]:
    """Whose leaving makes `need_blocks` available: the last in rank, all behind `seq` in the first
    `places` of their ranks; nobody if that is not enough.
    """
    short = need_blocks - draft.available + draft.batch.next_growth()
    victims: list[Sequence] = []
    for victim in reversed(running):
        if short <= 0 or victim.rank[:places] <= seq.rank[:places]:
            break
        if victim.state is not State.MOVING_IN:
            victims.append(victim)
            short -= draft.private_blocks(victim) + draft.grows(victim)
    return [] if short > 0 else victims
