"""The guard of a learned order: which of it and LRU hits more, as two caches of ids show."""

from __future__ import annotations

import math
from typing import Final

from superinfer.memory.orders.base import Surroundings
from superinfer.memory.orders.shadow import ShadowLru
from superinfer.request import Request

WINDOW: Final = 400.0
"""Requests over which hit rates roll: the weight of one falls by 1 / WINDOW with each request."""
MARGIN: Final = 0.005
"""A hit rate that is higher by no more than this is no reason to change the order."""
DOUBT: Final = 2.0
"""Standard deviations of the sum of the differences: what is less may be chance."""


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
        self.falls = 0
        """Times that it went back to age."""
        self._first_fall = ""
        """The first of them, in words."""

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
        times = "once" if self.falls == 1 else f"{self.falls} times"
        return [f"{self._first_fall}; {times} in all, {share:.0%} by age"]

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
            if not self.falls:
                self._first_fall = (
                    f"fell back to lru at request {self.requests}: "
                    f"hit rate {own:.3f}, lru {shadow:.3f}"
                )
            self.falls += 1
        self.plain = not self.plain
        self._lead = self._squares = self._compared = 0.0
        return True
