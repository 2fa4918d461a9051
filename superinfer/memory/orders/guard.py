"""The guard of a learned order: a shadow LRU of the same size, and what it would have hit."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

from superinfer.memory.orders.base import Surroundings
from superinfer.memory.prefix import Key, request_keys
from superinfer.request import Request

WINDOW: Final = 400.0
"""Requests over which hit rates roll: the weight of one falls by 1 / WINDOW with each request."""
MARGIN: Final = 0.005
"""A hit rate that is lower by no more than this is not held against the learned order."""
DOUBT: Final = 2.0
"""Standard deviations of the sum of the differences: what is less may be chance."""
FIRST_PAUSE: Final = 400
"""Requests until the learned order is tried again; twice as many after each further failure."""


class Run:
    """Content ids that follow one another in prompts, and that the same prompt used last."""

    __slots__ = ("names", "start")

    def __init__(self, names: tuple[Key, ...], start: int) -> None:
        self.names, self.start = names, start


class ShadowLru:
    """Runs of content ids in the order of their last use; of one prompt the deepest was used first.

    Whatever goes from the old end is a leaf of the prefix tree then, for the blocks above a block
    were last used with it or later. So this hits what `replay.CacheReplay` hits with `LruOrder`,
    without a tree. Ids are chained: each belongs to one place in its prompts.
    """

    def __init__(self) -> None:
        self._heads: dict[object, Run] = {}
        """Runs by namespace and first id."""
        self._order: OrderedDict[Run, object] = OrderedDict()
        """The same, with what it is found by."""
        self._ids = 0

    def serve(self, request: Request, capacity: int) -> int:
        """Look up and insert a prompt, then keep so many ids; returns the leading ones it found."""
        names, namespace, order = request_keys(request), request.namespace, self._order
        path = self._path(namespace, names)
        hits = path[-1].start + len(path[-1].names) if path else 0
        if hits < len(names):
            self._add(Run(names[hits:], hits), namespace)
            self._ids += len(names) - hits
        for run in reversed(path):
            order.move_to_end(run)
        while self._ids > capacity:
            self._trim(self._ids - capacity)
        return hits

    # -- inside ---------------------------------------------------------------------------------

    def _path(self, namespace: str, names: tuple[Key, ...]) -> list[Run]:
        """The runs of the longest known beginning; the last one is cut where that ends."""
        path: list[Run] = []
        block = 0
        while block < len(names):
            run = self._heads.get((namespace, names[block]))
            if run is None or run.start != block:
                break
            if names[block : block + len(run.names)] != run.names:
                run = self._cut(namespace, run, names)
            path.append(run)
            block += len(run.names)
        return path

    def _cut(self, namespace: str, run: Run, names: tuple[Key, ...]) -> Run:
        """The part that a prompt shares becomes a run of its own; the rest keeps its age."""
        own, start = run.names, run.start
        same = 1
        while same < len(own) and start + same < len(names) and own[same] == names[start + same]:
            same += 1
        upper = Run(own[:same], start)
        run.names, run.start = own[same:], start + same
        head = (namespace, run.names[0])
        self._heads[head], self._order[run] = run, head
        self._add(upper, namespace)
        return upper

    def _add(self, run: Run, namespace: str) -> None:
        head = (namespace, run.names[0])
        self._heads[head], self._order[run] = run, head

    def _trim(self, ids: int) -> None:
        """Forget so many ids of the oldest run, or all of it."""
        run = next(iter(self._order))
        kept = len(run.names) - ids
        if kept > 0:
            run.names = run.names[:kept]
            self._ids -= ids
            return
        self._ids -= len(run.names)
        head = self._order.pop(run)
        if self._heads.get(head) is run:
            del self._heads[head]


class Guard:
    """Compares rolling hit rates, and decides whether to go by age alone for a while.

    An order that always loses is found out after the fifth prompt of about equal loss, however
    long the window: then the sum is more than `DOUBT` roots of the squares. One that wins and loses
    is given the time to show what it is worth.
    """

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._room_blocks = surroundings.capacity_blocks
        self._shadows: dict[int, ShadowLru] = {}
        """One for each size of content ids in the trace."""
        self._own = self._shadow = self._blocks = self._squares = 0.0
        """Rolling sums of hits, of the shadow's, of blocks, and of squared differences of hits."""
        self.requests = self._changed = self.fallen_back = 0
        self._pause = FIRST_PAUSE
        self.plain = False
        """True while the order goes by age alone."""
        self.falls: list[str] = []
        """What happened, in words."""

    def resize(self, room_blocks: int) -> None:
        """The cache has room for so many blocks now, and the shadow with it."""
        self._room_blocks = room_blocks

    def observe(self, request: Request, own_blocks: float) -> bool:
        """Count what a request hit, in content ids; True if the mode changes.

        Hits count by the weight of the class, as they do for the values.
        """
        keep, weight = 1.0 - 1.0 / WINDOW, request.slo_class.weight
        shadow_blocks = self._findable(request, self._serve_shadow(request))
        self._own = keep * self._own + weight * own_blocks
        self._shadow = keep * self._shadow + weight * shadow_blocks
        self._blocks = keep * self._blocks + weight * len(request.hash_ids)
        lost = weight * (shadow_blocks - own_blocks)
        self._squares = keep * self._squares + lost * lost
        self.requests += 1
        self.fallen_back += self.plain
        return self._back() if self.plain else self._fall()

    @property
    def shadow_rate(self) -> float:
        """Share of the blocks of a prompt that plain age finds."""
        return self._shadow / self._blocks if self._blocks else 0.0

    @property
    def notes(self) -> list[str]:
        """Nothing, unless it fell back."""
        if not self.falls:
            return []
        share = self.fallen_back / self.requests
        return [f"{self.falls[0]}; fell back {len(self.falls)} times, {share:.0%} of the requests"]

    # -- inside ---------------------------------------------------------------------------------

    def _serve_shadow(self, request: Request) -> int:
        """Leading content ids that the shadow found."""
        tokens, near = request.hash_block_tokens, self._surroundings
        shadow = self._shadows.get(tokens)
        if shadow is None:
            shadow = self._shadows[tokens] = ShadowLru()
        return shadow.serve(request, max(1, self._room_blocks * near.block_tokens // tokens))

    def _findable(self, request: Request, hash_blocks: int) -> float:
        """What the cache could have found of that."""
        near, tokens = self._surroundings, request.hash_block_tokens
        if not near.whole_blocks:
            return hash_blocks
        most_tokens = min(hash_blocks * tokens, request.prompt_tokens - 1)
        return most_tokens // near.block_tokens * near.block_tokens / tokens

    def _fall(self) -> bool:
        """Whether LRU hits more, by more than the margin and than chance: were it as likely to gain
        as to lose, the squares would add up to the variance of the sum.
        """
        doubt = DOUBT * math.sqrt(self._squares)
        if self._shadow - self._own <= max(MARGIN * self._blocks, doubt):
            return False
        own, shadow = self._own / self._blocks, self.shadow_rate
        self.falls.append(
            f"fell back to lru at request {self.requests}: hit rate {own:.3f}, lru {shadow:.3f}"
        )
        self._switch(True)
        return True

    def _back(self) -> bool:
        if self.requests - self._changed < self._pause:
            return False
        self._pause *= 2
        self._own = self._shadow = self._blocks = self._squares = 0.0  # a trial stands for itself
        self._switch(False)
        return True

    def _switch(self, plain: bool) -> None:
        self.plain, self._changed = plain, self.requests
