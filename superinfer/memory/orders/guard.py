"""The guard of a learned order: which of it and LRU hits more, as two caches of ids show."""

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
"""A hit rate that is higher by no more than this is no reason to change the order."""
DOUBT: Final = 2.0
"""Standard deviations of the sum of the differences: what is less may be chance."""


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
    """Decides whether blocks go by value or by age alone: as told at first, and then by what hits
    more, once that is more than the margin and than chance.

    A shadow LRU tells what age would hit. What the values would hit is seen in the cache while
    blocks go by value, and else in a second shadow (`trial.Trial`): neither order has to be
    suffered to learn that it is the worse one. One that always wins is found after the fifth prompt
    of about equal gain, however long the window: then the sum is more than `DOUBT` roots of the
    squares.
    """

    def __init__(self, surroundings: Surroundings, plain: bool = True) -> None:
        """It begins by age if it is `plain`."""
        self._surroundings = surroundings
        self._room_blocks = surroundings.capacity_blocks
        self._shadows: dict[int, ShadowLru] = {}
        """One for each size of content ids in the trace."""
        self._shadow = self._blocks = 0.0
        """Rolling sums of the hits of the shadow, and of blocks."""
        self._lead = self._squares = self._compared = 0.0
        """Rolling sums of hits by value less those by age, of their squares, and of blocks, since
        the order changed last."""
        self.requests = self.fallen_back = 0
        """All, and those that were served while blocks went by age."""
        self.plain = plain
        """True while the order goes by age alone."""
        self.falls: list[str] = []
        """What happened, in words."""

    def resize(self, room_blocks: int) -> None:
        """The cache has room for so many blocks now, and the shadows with it."""
        self._room_blocks = room_blocks

    def room(self, hash_tokens: int) -> int:
        """Content ids of so many tokens for which there is room."""
        return max(1, self._room_blocks * self._surroundings.block_tokens // hash_tokens)

    def observe(self, request: Request, valued_blocks: float | None) -> bool:
        """Count what a request hits by value, in content ids; True if the mode changes.

        None while nobody knows. Hits count by the weight of the class, as they do for the values.
        """
        keep, weight = 1.0 - 1.0 / WINDOW, request.slo_class.weight
        shadow_blocks = self.findable(request, self._serve_shadow(request))
        blocks = weight * len(request.hash_ids)
        self._shadow = keep * self._shadow + weight * shadow_blocks
        self._blocks = keep * self._blocks + blocks
        self.requests += 1
        self.fallen_back += self.plain
        if valued_blocks is None:
            return False
        won = weight * (valued_blocks - shadow_blocks)
        self._lead = keep * self._lead + won
        self._squares = keep * self._squares + won * won
        self._compared = keep * self._compared + blocks
        return self._judge()

    def findable(self, request: Request, hash_blocks: int) -> float:
        """What the cache could have found of the leading ids that a shadow found."""
        near, tokens = self._surroundings, request.hash_block_tokens
        if not near.whole_blocks:
            return hash_blocks
        most_tokens = min(hash_blocks * tokens, request.prompt_tokens - 1)
        return most_tokens // near.block_tokens * near.block_tokens / tokens

    @property
    def shadow_rate(self) -> float:
        """Share of the blocks of a prompt that plain age finds."""
        return self._shadow / self._blocks if self._blocks else 0.0

    @property
    def notes(self) -> list[str]:
        """Nothing, unless values were found to be worse than age."""
        if not self.falls:
            behind = self.plain and self._lead < 0.0
            return ["by age throughout: by value it would hit no more"] if behind else []
        share = self.fallen_back / self.requests
        return [f"{self.falls[0]}; fell back {len(self.falls)} times, {share:.0%} by age"]

    # -- inside ---------------------------------------------------------------------------------

    def _serve_shadow(self, request: Request) -> int:
        """Leading content ids that the shadow found."""
        tokens = request.hash_block_tokens
        shadow = self._shadows.get(tokens)
        if shadow is None:
            shadow = self._shadows[tokens] = ShadowLru()
        return shadow.serve(request, self.room(tokens))

    def _judge(self) -> bool:
        """Whether the other order hits more, by more than the margin and than chance: were it as
        likely to gain as to lose, the squares would add up to the variance of the sum.
        """
        ahead = self._lead if self.plain else -self._lead
        if ahead <= max(MARGIN * self._compared, DOUBT * math.sqrt(self._squares)):
            return False
        if not self.plain:
            own, shadow = (self._shadow + self._lead) / self._blocks, self.shadow_rate
            self.falls.append(
                f"fell back to lru at request {self.requests}: hit rate {own:.3f}, lru {shadow:.3f}"
            )
        self.plain = not self.plain
        self._lead = self._squares = self._compared = 0.0
        return True
