"""The orders in which the host loses blocks in vLLM's offloading: `lru` and `arc`.

Source: vLLM 0.33.0, `lru.py` and `arc.py` in `vllm/v1/kv_offload/cpu/policies/`.

* `lru`: a request counts as one use of each block that it offered or loaded. While it lives, its
  blocks share one place in the order, the deepest of them first in line; when it has ended they get
  the last place, again the deepest first.
* `arc` has blocks that were stored once (T1) and blocks that another request has used since (T2),
  remembers the names of what it dropped from each (B1, B2), and learns from requests that store
  such a block again how large T1 should be. Uses count when a request has ended.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from collections.abc import Sequence as Items
from collections.abc import Set as AbstractSet
from typing import Final, Protocol

from superinfer.memory.index.keys import Key

WRITING: Final = -1
"""`Copy.refs` of a block that is not readable yet."""
_FEW: Final = 64
"""Entries that are not worth tidying up."""


class Copy:
    """A block on the host."""

    __slots__ = ("index", "key", "rank", "refs")

    def __init__(self, key: Key, index: int) -> None:
        self.key = key
        self.index = index
        """Its place in the prompts that have it."""
        self.refs = WRITING
        """Loads that read it."""
        self.rank = 0
        """Its group in the order `lru`."""


class User:
    """What one request has done on the host."""

    __slots__ = ("inserted", "jobs", "missed", "number", "rank", "reused", "seen", "stored")

    def __init__(self, number: int) -> None:
        self.number = number
        """The request's index."""
        self.rank = 0
        """Its group in the order `lru`, 0 before it has one."""
        self.jobs = 0
        """Its copies under way."""
        self.stored = 0
        """Leading blocks of the request that need not be offered again."""
        self.seen: dict[Key, int] = {}
        """Blocks it used, with their places in the request."""
        self.inserted: set[Key] = set()
        self.reused: set[Key] = set()
        self.missed: set[Key] = set()


class CopyOrder(Protocol):
    """Holds the copies, and says which idle ones go first."""

    def get(self, key: Key) -> Copy | None:
        """The copy of a block, if there is one."""
        ...

    def insert(self, copy: Copy, user: User) -> None:
        """Take in a copy that `user` is about to write."""
        ...

    def missed(self, keys: Items[Key]) -> None:
        """A request stores these blocks, which are not there."""
        ...

    def used(self, keys: Items[Key], user: User) -> None:
        """`user` meets these blocks for the first time; some may be about to be inserted."""
        ...

    def left(self, keys: Items[Key], user: User) -> None:
        """`user` has ended; `keys` are all that it used, from its first block on."""
        ...

    def evict(self, count: int, protected: AbstractSet[Key]) -> list[Copy] | None:
        """Drop so many idle copies, none of them protected; or None, and none, if they are too
        few.
        """
        ...

    def __iter__(self) -> Iterator[Copy]:
        """All copies."""
        ...


class LruOrder:
    """Least recently used first, in groups: the blocks that one request was the last to use."""

    def __init__(self) -> None:
        self._copies: dict[Key, Copy] = {}
        self._groups: dict[int, list[Copy]] = {}
        """By rank. An entry is out of date when the copy has gone or has another rank."""
        self._order: list[int] = []
        """A heap of the ranks, some of groups that are no more."""
        self._sorted: set[int] = set()
        """Groups known to have their deepest block last."""
        self._ranks = 0
        self._entries = 0
        """Made since the last tidying up."""

    def __iter__(self) -> Iterator[Copy]:
        """All copies."""
        return iter(self._copies.values())

    def get(self, key: Key) -> Copy | None:
        """As the protocol says."""
        return self._copies.get(key)

    def insert(self, copy: Copy, user: User) -> None:
        """With the other blocks of its request."""
        self._copies[copy.key] = copy
        self._join(copy, self._rank_of(user))

    def missed(self, keys: Items[Key]) -> None:
        """Nothing: what is not there has no place."""

    def used(self, keys: Items[Key], user: User) -> None:
        """Move what is there up to the other blocks of the request."""
        rank = self._rank_of(user)
        for key in keys:
            copy = self._copies.get(key)
            if copy is not None and copy.rank < rank:
                self._join(copy, rank)

    def left(self, keys: Items[Key], user: User) -> None:
        """All to the end."""
        self._ranks += 1
        group = [self._copies[key] for key in keys if key in self._copies]
        for copy in group:
            copy.rank = self._ranks
        self._groups.pop(user.rank, None)
        if group:
            self._groups[self._ranks] = group
            self._sorted.add(self._ranks)
            heapq.heappush(self._order, self._ranks)
        self._entries += len(group)
        if self._entries > max(_FEW, 4 * len(self._copies)):
            self._tidy_up()

    def evict(self, count: int, protected: AbstractSet[Key]) -> list[Copy] | None:
        """The deepest block of the first group, and so on."""
        victims: list[Copy] = []
        passed = [0]
        while self._order and len(victims) < count:
            rank = heapq.heappop(self._order)
            if rank != passed[-1] and rank in self._groups:
                self._take(rank, count, protected, victims)
                passed.append(rank)
        enough = len(victims) == count
        for copy in victims:
            if enough:
                del self._copies[copy.key]
            else:
                self._join(copy, copy.rank)
        for rank in passed[1:]:
            if self._groups[rank]:
                heapq.heappush(self._order, rank)
            else:
                del self._groups[rank]
        return victims if enough else None

    def _take(
        self, rank: int, count: int, protected: AbstractSet[Key], victims: list[Copy]
    ) -> None:
        """Take out of a group what can go, until there are `count`."""
        group = self._groups[rank]
        spared: list[Copy] = []
        if rank not in self._sorted:
            group.sort(key=_index)
            self._sorted.add(rank)
        while group and len(victims) < count:
            copy = group.pop()
            if copy.rank != rank or self._copies.get(copy.key) is not copy:
                continue
            (spared if copy.refs or copy.key in protected else victims).append(copy)
        group.extend(reversed(spared))

    def _rank_of(self, user: User) -> int:
        if not user.rank:
            self._ranks += 1
            user.rank = self._ranks
        return user.rank

    def _join(self, copy: Copy, rank: int) -> None:
        copy.rank = rank
        group = self._groups.get(rank)
        if group is None:
            group = self._groups[rank] = []
            heapq.heappush(self._order, rank)
        group.append(copy)
        self._entries += 1
        self._sorted.discard(rank)

    def _tidy_up(self) -> None:
        """Forget entries that are out of date."""
        live = self._copies
        for rank, group in list(self._groups.items()):
            kept = [copy for copy in group if copy.rank == rank and live.get(copy.key) is copy]
            if kept:
                self._groups[rank] = kept
            else:
                del self._groups[rank]
        self._sorted &= self._groups.keys()
        self._order, self._entries = sorted(self._groups), len(live)


class ArcOrder:
    """Adaptive replacement between blocks used once and blocks used again."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.target = 0.0
        """How large the part of those used once should be."""
        self.once: OrderedDict[Key, Copy] = OrderedDict()
        self.again: OrderedDict[Key, Copy] = OrderedDict()
        self.gone_once: OrderedDict[Key, None] = OrderedDict()
        """Names of what was evicted from `once`, and next from `again`; the oldest first."""
        self.gone_again: OrderedDict[Key, None] = OrderedDict()

    def __iter__(self) -> Iterator[Copy]:
        """All copies."""
        yield from self.once.values()
        yield from self.again.values()

    def get(self, key: Key) -> Copy | None:
        """As the protocol says."""
        copy = self.once.get(key)
        return self.again.get(key) if copy is None else copy

    def insert(self, copy: Copy, user: User) -> None:
        """As one that was used once."""
        self.once[copy.key] = copy
        self.gone_once.pop(copy.key, None)
        self.gone_again.pop(copy.key, None)

    def missed(self, keys: Items[Key]) -> None:
        """What has gone too soon shifts the balance."""
        for key in reversed(keys):
            if key in self.gone_once:
                step = max(1.0, len(self.gone_again) / len(self.gone_once))
                self.target = min(self.target + step, self.capacity)
                self.gone_once.move_to_end(key)
            elif key in self.gone_again:
                step = max(1.0, len(self.gone_once) / len(self.gone_again))
                self.target = max(self.target - step, 0.0)
                self.gone_again.move_to_end(key)

    def used(self, keys: Items[Key], user: User) -> None:
        """Nothing: it counts when the request has ended."""

    def left(self, keys: Items[Key], user: User) -> None:
        """What it only stored moves to the end of its part, what it found moves to `again`."""
        for key in reversed(keys):
            if key in user.reused:
                if key in self.once:
                    self.again[key] = self.once.pop(key)
                elif key in self.again:
                    self.again.move_to_end(key)
            elif key in user.inserted:
                if key in self.once:
                    self.once.move_to_end(key)
                elif key in self.again:
                    self.again.move_to_end(key)

    def evict(self, count: int, protected: AbstractSet[Key]) -> list[Copy] | None:
        """From `once` while that is as large as it should be, else from `again`; from the other
        part where one has none left.
        """
        victims: list[tuple[Copy, bool]] = []
        left_once = len(self.once)
        once, again = _idle(self.once, protected), _idle(self.again, protected)
        while len(victims) < count:
            wanted = left_once >= int(self.target)
            copy = next(once, None) if wanted else None
            from_once = copy is not None
            if copy is None:
                copy = next(again, None)
            if copy is None:
                copy, from_once = next(once, None), True
            if copy is None:
                return None
            left_once -= from_once
            victims.append((copy, from_once))
        for copy, from_once in victims:
            self._drop(copy.key, from_once)
        return [copy for copy, _ in victims]

    def _drop(self, key: Key, from_once: bool) -> None:
        part, gone = self.again, self.gone_again
        if from_once:
            part, gone = self.once, self.gone_once
        del part[key]
        gone[key] = None
        while len(gone) > self.capacity:
            gone.popitem(last=False)


def _index(copy: Copy) -> int:
    return copy.index


def _idle(part: OrderedDict[Key, Copy], protected: AbstractSet[Key]) -> Iterator[Copy]:
    for key, copy in part.items():
        if not copy.refs and key not in protected:
            yield copy
